"""`kis undo`: edits taken back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def undo(
    directory: Annotated[Path, typer.Argument(help="Folder of an edited model, or its ledger's.")],
    out: Annotated[Path, typer.Option(help="Folder for the model that is left.")],
    keep: Annotated[int | None, typer.Option(help="Keep the first so many edits.")] = None,
    remove: Annotated[
        str | None, typer.Option(help="Take these edits back: 3 or 3,7, as kis ledger list shows.")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Take all back: the base, bit for bit.")
    ] = False,
    base: Annotated[
        str | None,
        typer.Option(help="Where the model before the edits is now. [default: where it was]"),
    ] = None,
) -> None:
    """Makes a model anew from its base and the edits that are to stay.

    What is left is what editing these facts alone, with the target values they had, would have
    made: neither other edits nor rounding add up. The edited model itself stays as it is; another
    one of the same base, in the output folder, is replaced.
    """
    from kis_jax.checkpoints.edited_directory import check_other, check_writable
    from kis_jax.checkpoints.ledger_file import load_ledger
    from kis_jax.edit import console as edit_console
    from kis_jax.edit.undo import open_base, remaining, restore, rewrite

    if (keep is not None) + (remove is not None) + everything != 1:
        raise ValueError("--keep, --remove, --all: expected one of the three; see kis undo --help")
    ledger = load_ledger(directory)
    check_other(out, directory)
    check_writable(out, ledger.base.fingerprint if ledger.base else None)
    rows = [] if everything else remaining(
        ledger, keep=keep, remove=edit_console.parse_rows("remove", remove) if remove else []
    )  # fmt: skip
    left = ledger.take(rows) if rows else None
    source = open_base(ledger, base)
    if left is None:
        restore(source, out)
    else:
        rewrite(left, source, out)
    edit_console.print_rewritten(left, len(ledger.facts), out)
