"""`kis ledger`: what was edited; and ledgers put together or in another order."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kis_jax.cli.writing import WritesFolder

app = typer.Typer(help="Show what was edited, merge edits, or bring them into another order.")

_Directory = Annotated[Path, typer.Argument(help="Folder of an edited model, or its ledger's.")]
_Out = Annotated[Path, typer.Option(help="Folder for the model that comes of it.")]
_Base = Annotated[
    str | None,
    typer.Option(help="Where the model before the edits is now. [default: where it was]"),
]


@app.command(name="list")
def list_edits(directory: _Directory) -> None:
    """Lists the edits, a line each, with the row by which kis undo knows them."""
    from kis_jax.checkpoints.ledger_file import load_ledger
    from kis_jax.edit import console as edit_console

    edit_console.print_ledger(load_ledger(directory))


@app.command()
def show(
    directory: _Directory,
    row: Annotated[int, typer.Argument(help="Row of the edit, as kis ledger list shows it.")],
) -> None:
    """Shows one edit: what it wrote, and the edits with which it shares most."""
    from kis_jax.checkpoints.ledger_file import load_ledger
    from kis_jax.edit import console as edit_console

    edit_console.print_row(load_ledger(directory), row)


@app.command(cls=WritesFolder)
def merge(
    first: Annotated[Path, typer.Argument(help="Folder of an edited model.")],
    second: Annotated[Path, typer.Argument(help="Folder of another one of the same base.")],
    out: _Out,
    base: _Base = None,
) -> None:
    """Makes a model with the edits of both, as if all had been asked for at once."""
    from kis_jax.checkpoints.edited_directory import check_other
    from kis_jax.checkpoints.ledger_file import load_ledger
    from kis_jax.edit import console as edit_console
    from kis_jax.edit.undo import open_base, rewrite

    check_other(out, first)
    check_other(out, second)
    merged = load_ledger(first).merge(load_ledger(second))
    rewrite(merged, open_base(merged, base), out)
    edit_console.print_rewritten(merged, len(merged.facts), out)


@app.command(cls=WritesFolder)
def reorder(
    directory: _Directory,
    order: Annotated[str, typer.Option(help="All rows in the order wanted, such as 2,0,1.")],
    out: _Out,
    base: _Base = None,
) -> None:
    """Makes a model with the same edits, made in another order."""
    from kis_jax.checkpoints.edited_directory import check_other
    from kis_jax.checkpoints.ledger_file import load_ledger
    from kis_jax.edit import console as edit_console
    from kis_jax.edit.undo import open_base, rewrite

    check_other(out, directory)
    ledger = load_ledger(directory)
    rows = edit_console.parse_rows("order", order)
    if sorted(rows) != list(range(len(ledger.facts))):
        raise ValueError(
            f"order: expected each of the rows 0 to {len(ledger.facts) - 1} once, found {order}; "
            "to leave some out use kis undo --remove"
        )
    rewrite(ledger.take(rows), open_base(ledger, base), out)
    edit_console.print_rewritten(ledger, len(ledger.facts), out)
