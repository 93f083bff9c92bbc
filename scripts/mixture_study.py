r"""Superposition in a mixture of experts against a model with one MLP a layer, from their scans.

    python -m scripts.train_factlm --experts 8 --facts 256 --epochs 16 --num-layers 4 \
        --tokens-per-batch 512 --out out/mixture
    kis scan out/mixture/model --facts out/mixture/facts.json \
        --corpus out/mixture/corpus.txt --out out/mixture/scan

the same with `--experts 1` into out/dense, then

    python -m scripts.mixture_study out/mixture/scan out/dense/scan
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

_DRAWS = 1000


def main(
    mixture: Annotated[Path, typer.Argument(help="A scan of a mixture.")],
    dense: Annotated[Path, typer.Argument(help="A scan of the other model, of the same facts.")],
) -> None:
    """Prints, for each layer, what P is in the mixture over what it is in the other, with 95 %."""
    records = [json.loads((folder / "scan.json").read_text()) for folder in (mixture, dense)]
    asked = [[(f["prompt"], f["subject"]) for f in record["facts"]] for record in records]
    if asked[0] != asked[1]:
        raise typer.BadParameter("expected scans of the same facts, found others")
    for layers in zip(*(record["layers"] for record in records), strict=True):
        name = f"layer_{layers[0]['layer']:03d}.npz"
        ps = [_superposition(folder / name) for folder in (mixture, dense)]
        random = [layer["controls"]["random_directions"]["std"] for layer in layers]
        typer.echo(f"layer {layers[0]['layer']}: {_ratios(ps, random)}")


def _superposition(path: Path) -> np.ndarray:
    with np.load(path) as arrays:
        return arrays["superposition"]


def _ratios(ps: list[np.ndarray], random: list[float]) -> str:
    """Of mean |P|, of its root mean square, and of that over random directions routed alike."""
    n, rng = len(ps[0]), np.random.default_rng(0)

    def found(rows: Any) -> list[float]:
        mixture, dense = (_sizes(p, rows) for p in ps)
        mean, rms = mixture[0] / dense[0], mixture[1] / dense[1]
        return [mean, rms, rms * random[1] / random[0]]

    draws = [found(rng.integers(0, n, n)) for _ in range(_DRAWS)]
    limits = np.percentile(draws, [2.5, 97.5], axis=0)
    names = ("mean |P|", "rms P", "rms P over random")
    return ", ".join(
        f"{name} {value:.2f} ({low:.2f} to {high:.2f})"
        for name, value, low, high in zip(names, found(np.arange(n)), *limits, strict=True)
    )


def _sizes(p: np.ndarray, rows: np.ndarray) -> tuple[float, float]:
    """Mean and root mean square of |P| between different facts of a draw."""
    entries = np.abs(p[np.ix_(rows, rows)][rows[:, None] != rows])
    return float(entries.mean()), float(np.sqrt(np.square(entries).mean()))


if __name__ == "__main__":
    typer.run(main)
