"""`kis inspect`: what a model is, and what a scan of it takes."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from kis_jax.cli import options
from kis_jax.factlm import NAME


def inspect(
    model: options.Model = NAME,
    dtype: Annotated[
        Literal["float32", "bfloat16"], typer.Option(help="Of the forward pass of a scan.")
    ] = "float32",
    num_documents: Annotated[
        int, typer.Option(help="Documents for C, each as long as they may be.")
    ] = 100_000,
    document_length: options.DocumentLength = None,
    tokens: Annotated[int | None, typer.Option(help="Tokens for C, in place of documents.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON in place of a table.")] = False,
) -> None:
    """Tells a model's family, shapes and size, and whether a scan of it fits this device.

    Reads its config.json and the headers of its files, and loads no weights; of a model on the
    hub, only the configuration is fetched.
    """
    from kis_jax.cli import console
    from kis_jax.inspect.run import inspect_model

    found = inspect_model(
        model,
        dtype=dtype,
        num_documents=num_documents,
        document_length=document_length,
        tokens=tokens,
    )
    if json:
        console.print_json(found)
    else:
        console.print_inspection(found)
