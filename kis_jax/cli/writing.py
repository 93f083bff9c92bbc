"""Commands that write into a folder, each with that folder to itself."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand

from kis_jax.checkpoints.files import writing_alone


class WritesFolder(TyperCommand):
    """A command that writes the folder of `--out`, which no other may do meanwhile.

    Where it is one host of many, all of them write it: the first takes it once they have met.
    """

    def invoke(self, ctx: Any) -> Any:
        """Runs the command."""
        if "coordinator" in ctx.params:
            from kis_jax.cli.hosts import on_mesh

            found = on_mesh(ctx)
            if found is not None and found.place is not None:
                return super().invoke(ctx)
        with writing_alone(ctx.params["out"]):
            return super().invoke(ctx)
