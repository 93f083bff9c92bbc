"""Trains the embedded model: `python scripts/train_factlm.py --seed 0 --out kis_jax/factlm`."""

from pathlib import Path
from typing import Annotated

import typer

from kis_jax import factlm
from kis_jax.factlm.training import SIZES, train

SHIPPED = factlm.model_directory().parent


def main(
    seed: Annotated[int, typer.Option(help="Of the parameters and the order of the texts.")] = 0,
    out: Annotated[Path, typer.Option(help="Receives facts.json, corpus.txt, model/.")] = SHIPPED,
    size: Annotated[str, typer.Option(help=f"Width: one of {', '.join(SIZES)}.")] = "128",
) -> None:
    """Trains factlm and prints how many of its facts it knows."""
    if size not in SIZES:
        raise typer.BadParameter(f"expected one of {', '.join(SIZES)}, found {size!r}")
    figures = train(SIZES[size], seed, out, typer.echo)
    for name, share in figures["recall"].items():
        typer.echo(f"recall on {name.replace('_', ' ')}: {share:.2%}")
    typer.echo(f"{figures['parameters']:,} parameters, {figures['seconds']} s, in {out}")


if __name__ == "__main__":
    typer.run(main)
