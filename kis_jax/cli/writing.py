"""Commands that write into a folder, each with that folder to itself."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand

from kis_jax.checkpoints.files import room_for, writing_alone


class WritesFolder(TyperCommand):
    """A command that writes the folder of `--out`, which no other may do meanwhile.

    Where it is one host of many, all of them write it: the first takes it once they have met. A
    disk that is full is one line, whatever was to be written.
    """

    def invoke(self, ctx: Any) -> Any:
        """Runs the command."""
        if "coordinator" in ctx.params:
            from kis_jax.cli.hosts import on_mesh

            found = on_mesh(ctx)
            if found is not None and found.place is not None:
                return super().invoke(ctx)
        out = ctx.params["out"]
        with writing_alone(out), room_for(out):
            return super().invoke(ctx)
