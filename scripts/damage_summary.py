"""What `scripts/damage_study.py` found: rank correlations, curves, intervals, and the figure.

    python scripts/damage_summary.py --work out/damage --out docs/real

With `--only-draw` the figure is drawn again from `damage.json`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from matplotlib.figure import Figure
from scipy.stats import rankdata

from kis_jax.report.style import BLUE, GREEN, GREY, INK, ORANGE, PALE, WIDTH, png, styled

ROOT = Path(__file__).resolve().parent.parent
_WORST = 0.05  # the share of all answers of all edits that lose most
_RESAMPLES = 200
# By the name in the files of the study, in words.
_NAMES = {
    "p": "superposition P",
    "p_without_common": "P without the common direction",
    "p_any_token": "P, any token of the prompt",
    "move": "P x residual",
    "move_in_streams": "P x residual / stream",
    "move_any_token": "the same, any token",
    "first_order": "P x residual x slope",
    "key_cosine": "cosine of keys",
    "stream_cosine": "cosine of streams, at the layer",
    "stream_cosine_best": "cosine of streams, best of all layers",
    "gradient_dot": "dot product of gradients",
    "gradient_cosine": "cosine of gradients",
    "same_relation": "same relation",
    "same_answer": "same answer",
}


def main(
    work: Annotated[Path, typer.Option(help="Of the study.")] = Path("out/damage"),
    out: Annotated[Path, typer.Option(help="For damage.json and damage.png.")] = ROOT / "docs/real",
    only_draw: Annotated[bool, typer.Option("--only-draw", help="From damage.json.")] = False,
) -> None:
    """Prints a table, writes both files."""
    path = out / "damage.json"
    if not only_draw:
        with np.load(work / "facts.npz") as arrays:
            about = dict(arrays)
        found = {
            file.stem.removeprefix("layer_").lstrip("0") or "0": layer_summary(file, about)
            for file in sorted(work.glob("layer_*.npz"))
        }
        out.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found, indent=1) + "\n")
    found = json.loads(path.read_text())
    for line in table(found):
        print(line)
    (out / "damage.png").write_bytes(png(figure(found)))


def layer_summary(path: Path, about: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Everything about one layer, plain JSON values."""
    with np.load(path) as arrays:
        layer = dict(arrays)
    number = int(path.stem.removeprefix("layer_"))
    rows = np.flatnonzero(np.isfinite(layer["log_p"]).all(axis=1))
    edits = about["edits"][rows]
    damage = layer["before"] - layer["log_p"][rows]
    others = np.arange(damage.shape[1]) != edits[:, None]
    same = {name: about[name][edits][:, None] == about[name] for name in ("relation", "answer")}
    told = {name: np.abs(layer[name][rows].astype(np.float64)) for name in _NAMES if name in layer}
    signed = -layer["first_order"][rows].astype(np.float64)
    streams = np.abs(about["streams"][..., rows, :].astype(np.float64))
    told["stream_cosine"] = streams[number, 0]
    every = streams.reshape(-1, *damage.shape)
    told["stream_cosine_best"] = max(every, key=lambda one: _area(one[others], damage[others]))
    told |= {f"same_{name}": of.astype(np.float64) for name, of in same.items()}
    apart = others & ~same["relation"]
    areas = {name: _drawn(_area, values, damage, others) for name, values in told.items()}
    return {
        "num_edits": len(rows),
        "num_facts": damage.shape[1],
        "written": float(np.mean(np.exp(layer["new_after"][rows]))),
        "damage": {
            str(share): float(np.quantile(damage[others], share))
            for share in (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
        },
        "loses_half": float(np.mean(damage[others] > np.log(2))),
        "of_worst_same_relation": float(same["relation"][others][_worst(damage[others])].mean()),
        "same_relation": float(same["relation"][others].mean()),
        "foretold": {
            name: {
                "change": _interval(_spearman, values, np.abs(damage), others),
                "within": _within(values, np.abs(damage), others),
                "worst": _limits(areas[name]),
                "worst_over_key_cosine": _limits(areas[name] - areas["key_cosine"]),
                "worst_of_other_relations": _interval(_area, values, damage, apart),
            }
            for name, values in told.items()
        },
        # Of the only one that has a sign.
        "signed_first_order": {
            "change": _interval(_spearman, signed, damage, others),
            "within": _within(signed, damage, others),
            "worst": _interval(_area, signed, damage, others),
            "worst_of_other_relations": _interval(_area, signed, damage, apart),
            "slope": float(
                np.median(damage[others][_worst(signed[others])])
                / np.median(signed[others][_worst(signed[others])])
            ),
        },
    }


def _worst(damage: np.ndarray) -> np.ndarray:
    return damage >= np.quantile(damage, 1 - _WORST)


def _spearman(values: np.ndarray, changes: np.ndarray) -> float:
    if values.std() == 0:
        return float("nan")
    return float(np.corrcoef(rankdata(values), rankdata(changes))[0, 1])


def _area(values: np.ndarray, damage: np.ndarray) -> float:
    """Under the curve: how often one of the worst has the larger value than one of the rest."""
    worst, ranks = _worst(damage), rankdata(values)
    positive, n = int(worst.sum()), len(worst)
    if not 0 < positive < n:
        return float("nan")
    return float((ranks[worst].mean() - (positive + 1) / 2) / (n - positive))


def _drawn(statistic: Any, values: np.ndarray, damage: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """A statistic over all edits and answers, and again with edits drawn anew; the same draws."""
    rng, n = np.random.default_rng(0), len(values)
    draws = [np.arange(n), *rng.integers(n, size=(_RESAMPLES, n))]
    return np.array(
        [statistic(values[rows][kept[rows]], damage[rows][kept[rows]]) for rows in draws]
    )


def _limits(found: np.ndarray) -> list[float] | None:
    """What was found, and 95 % limits; None of what is constant, or has no worst."""
    if np.isnan(found[0]):
        return None
    return [float(found[0]), *map(float, np.nanpercentile(found[1:], (2.5, 97.5)))]


def _interval(
    statistic: Any, values: np.ndarray, damage: np.ndarray, kept: np.ndarray
) -> list[float] | None:
    return _limits(_drawn(statistic, values, damage, kept))


def _within(values: np.ndarray, changes: np.ndarray, kept: np.ndarray) -> list[float] | None:
    """The mean over edits of each one's rank correlation, and its limits."""
    each = np.array([_spearman(a[k], b[k]) for a, b, k in zip(values, changes, kept, strict=True)])
    each = each[np.isfinite(each)]
    if not len(each):
        return None
    draws = np.random.default_rng(0).integers(len(each), size=(2000, len(each)))
    limits = np.percentile(each[draws].mean(axis=1), (2.5, 97.5))
    return [float(each.mean()), *map(float, limits)]


def table(found: Mapping[str, Any]) -> list[str]:
    """As Markdown: for each layer the area under the curve, and within an edit the ranks."""
    lines = ["| foretold by | " + " | ".join(f"layer {layer}" for layer in found) + " |"]
    lines.append("| --- |" + " --- |" * len(found))
    rows = {name: [of["foretold"][name] for of in found.values()] for name in _NAMES}
    rows["signed"] = [of["signed_first_order"] for of in found.values()]
    for name, each in rows.items():
        words = _NAMES.get(name, "P x residual x slope, with its sign")
        cells = [
            f"{_cell(of['worst'])}; {_cell(of['within'][:1] if of['within'] else None)}"
            for of in each
        ]
        lines.append(f"| {words} | {' | '.join(cells)} |")
    return lines


def _cell(interval: list[float] | None) -> str:
    """A number with its limits, if it has any."""
    if interval is None:
        return "-"
    return "{:.2f} ({:.2f} to {:.2f})".format(*interval) if interval[1:] else f"{interval[0]:.2f}"


@styled
def figure(found: Mapping[str, Any]) -> Figure:
    """The area under the curve for the worst, by layer."""
    shown = {
        "signed": ("P x residual x slope, signed", ORANGE, "o-"),
        "move_any_token": ("P x residual / stream, any token", BLUE, "s-"),
        "p": ("P", INK, "^-"),
        "key_cosine": ("cosine of keys", GREEN, "v--"),
        "stream_cosine_best": ("cosine of streams, best layer", GREY, "d--"),
        "gradient_dot": ("gradients", PALE, "x--"),
    }
    drawn = Figure(figsize=(WIDTH, 3.4))
    both = drawn.subplots(1, 2, sharey=False)
    drawn.subplots_adjust(left=0.11, right=0.98, top=0.78, bottom=0.14, wspace=0.32)
    layers = [int(layer) for layer in found]
    for name, (label, colour, look) in shown.items():
        of = [
            each["signed_first_order"] if name == "signed" else each["foretold"][name]
            for each in found.values()
        ]
        for axes, what in zip(both, ("worst", "within"), strict=True):
            middle, low, high = np.array([each[what] for each in of]).T
            spread = np.array([middle - low, high - middle])
            axes.errorbar(
                layers, middle, spread, fmt=look, color=colour, label=label, markersize=3.5,
                elinewidth=0.8,
            )  # fmt: skip
    both[0].axhline(0.5, color=GREY, linewidth=0.8, linestyle=":")
    both[0].set_ylabel("area under the curve, worst 5 %")
    both[1].axhline(0.0, color=GREY, linewidth=0.8, linestyle=":")
    both[1].set_ylabel("rank correlation within an edit")
    for axes in both:
        axes.set_xlabel("edited layer")
    both[0].legend(loc="lower left", bbox_to_anchor=(-0.1, 1.02), ncols=2, borderaxespad=0.2)
    return drawn


if __name__ == "__main__":
    typer.run(main)
