"""The command `kis`: parses, calls, prints; no mathematics."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from kis_jax.cli import scan as _scan

app = typer.Typer(
    name="kis",
    help="Knowledge in superposition: measure what an edit of a language model would also move.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command(name="scan")(_scan.scan)


def _print_version(wanted: bool) -> None:
    if wanted:
        from kis_jax import __version__

        print(f"kis {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    # With a callback, typer keeps `scan` as a command of its own while it is the only one.
    del version


def main() -> None:
    """Runs the command; what the user can mend is one line on standard error and exit status 2."""
    # Advice meant for torch users; set before transformers is imported.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    try:
        app()
    except (ValueError, OSError) as error:
        message = " ".join(str(error).split())
        print(f"kis: error: {message}", file=sys.stderr)
        sys.exit(2)
