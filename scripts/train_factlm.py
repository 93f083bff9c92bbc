"""Trains the embedded model: `python scripts/train_factlm.py --seed 0 --out kis_jax/factlm`."""

from pathlib import Path
from typing import Annotated

import typer

from kis_jax import factlm
from kis_jax.factlm.training import REFERENCE_EPOCHS, TOKENS_PER_BATCH, Size, train

SHIPPED = factlm.model_directory().parent


def main(
    seed: Annotated[int, typer.Option(help="Of the parameters and the order of the texts.")] = 0,
    out: Annotated[Path, typer.Option(help="Receives facts.json, corpus.txt, model/.")] = SHIPPED,
    size: Annotated[int, typer.Option(help="Width, a multiple of 32.")] = 128,
    num_layers: Annotated[int, typer.Option(help="Blocks.")] = 6,
    epochs: Annotated[
        int, typer.Option(help="Of width 128; other widths take more or fewer, by one rule.")
    ] = REFERENCE_EPOCHS,
    facts: Annotated[
        int | None, typer.Option(help="Cut the world to so many facts. [default: all]")
    ] = None,
    tokens_per_batch: Annotated[
        int, typer.Option(help="The fewer, the more steps an epoch has.")
    ] = TOKENS_PER_BATCH,
    experts: Annotated[
        int | None,
        typer.Option(help="A mixture of so many; 1 for its dense twin. [default: a GPT-2]"),
    ] = None,
) -> None:
    """Trains factlm and prints how many of its facts it knows."""
    try:
        shape = Size.of_width(size, num_layers, epochs)
        figures = train(shape, seed, out, typer.echo, facts, tokens_per_batch, experts)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    for name, share in figures["recall"].items():
        typer.echo(f"recall on {name.replace('_', ' ')}: {share:.2%}")
    typer.echo(f"{figures['parameters']:,} parameters, {figures['seconds']} s, in {out}")


if __name__ == "__main__":
    typer.run(main)
