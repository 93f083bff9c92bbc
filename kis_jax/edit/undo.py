"""The way back: an edited model made anew from its base and a part of its ledger."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from kis_jax.checkpoints import fingerprint
from kis_jax.checkpoints.edited_directory import (
    check_other,
    copy_base,
    edited_directory,
    write_edited,
    write_record,
)
from kis_jax.checkpoints.hub import locate
from kis_jax.checkpoints.ledger import Ledger
from kis_jax.checkpoints.loading import load_model
from kis_jax.edit.run import ledger_record, source_name
from kis_jax.models.memory import edited


def open_base(ledger: Ledger, base: str | None) -> str:
    """The name of the model that a ledger's edits were made to, checked byte for byte.

    Args:
      ledger: of the edited model.
      base: where the base is now; None where the ledger says.

    Raises:
      ValueError: if it is not there, or is another model.
    """
    if ledger.base is None:
        raise ValueError(
            "ledger: expected one that names its base, found one of edits made in memory; take "
            "back such edits by kis.edited(model, ledger.take(...).edits)"
        )
    source = ledger.base.source if base is None else base
    try:
        directory = locate(source)
    except ValueError as error:
        raise ValueError(f"{error}; or say by --base where the base is now") from error
    found = fingerprint.of_model(directory)
    if found != ledger.base.fingerprint:
        raise ValueError(
            f"base: expected the model that was edited, {ledger.base.source} with fingerprint "
            f"{ledger.base.fingerprint[:12]}, found another one in {directory}, {found[:12]}; its "
            "files have changed, or it is another model: say by --base where the base is now"
        )
    return source


def rewrite(ledger: Ledger, base: str, out: Path) -> None:
    """Writes the base with a ledger's edits, and nothing else, as `kis edit` would have.

    Args:
      ledger: of edits to the base.
      base: from `open_base`.
      out: the folder, which appears at once.

    Raises:
      ValueError: if `out` holds something foreign.
    """
    check_other(out, locate(base))
    given = ledger.base
    if given is not None:
        ledger = dataclasses.replace(
            ledger, base=dataclasses.replace(given, source=source_name(base))
        )
    with edited_directory(out) as folder:
        model = edited(load_model(locate(base)), ledger.edits)
        write_edited(folder, model, ledger, source=base)
        write_record(folder, {**ledger_record(ledger), "exact": ledger.exact, "metrics": None})


def restore(base: str, out: Path) -> None:
    """Writes the base itself, byte for byte: its weights, and the files that go with them.

    Raises:
      ValueError: if `out` holds something foreign, or is the base.
    """
    directory = locate(base)
    check_other(out, directory)
    with edited_directory(out, fingerprint.of_model(directory)) as folder:
        copy_base(directory, folder)


def remaining(ledger: Ledger, *, keep: int | None, remove: Sequence[int]) -> list[int]:
    """The rows that are left when all but the first so many, or some, are taken away.

    Raises:
      ValueError: if there are not so many, or no such row.
    """
    n = len(ledger.facts)
    if keep is not None:
        if not 0 <= keep <= n:
            raise ValueError(f"keep: expected a number of edits, 0 to {n}, found {keep}")
        return list(range(keep))
    if wrong := [row for row in remove if not 0 <= row < n]:
        raise ValueError(
            f"remove: expected rows of the ledger, 0 to {n - 1}, found {wrong[0]}; `kis ledger "
            "list` shows them"
        )
    return [row for row in range(n) if row not in set(remove)]
