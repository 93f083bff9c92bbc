"""`kis settings`: what an edit of a model would go by, and why."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from kis_jax.cli import options
from kis_jax.factlm import NAME


def settings(
    model: options.Model = NAME,
    method: Annotated[
        Literal["rome", "sequential", "constrained", "batch", "null-space", "finetune"] | None,
        typer.Option(help="Show what this method goes by. [default: all settings]"),
    ] = None,
    settings: options.Settings = "auto",
    changes: options.Set = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON in place of a table.")] = False,
) -> None:
    """Shows the settings that kis edit, lifelong and plan would use for a model, and why.

    Reads no weights but for a fingerprint, by which settings that kis tune has found are known.
    """
    from kis_jax.checkpoints import fingerprint
    from kis_jax.checkpoints.hub import locate
    from kis_jax.checkpoints.opening import read_config
    from kis_jax.passes.targets.chosen import chosen_settings
    from kis_jax.tune import console

    directory = locate(model)
    _, config = read_config(directory)
    of_model = fingerprint.of_model(directory) if settings == "auto" else None
    found = chosen_settings(
        config, source=settings, changes=tuple(changes or ()), fingerprint=of_model
    )
    console.print_settings(found, method, config, as_json=json)
