"""The folder of an edited model: weights, ledger, adapter and record, which appear at once."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kis_jax.checkpoints.adapter import MEMORY, foreign_to_adapter, write_adapter
from kis_jax.checkpoints.export import foreign_to_export, open_source, write_export
from kis_jax.checkpoints.files import check_replaceable, find, write_directory_atomically
from kis_jax.checkpoints.ledger import Ledger
from kis_jax.checkpoints.ledger_file import LEDGER, save_ledger
from kis_jax.checkpoints.opening import open_checkpoint
from kis_jax.models import Model

RECORD, ADAPTER = "edit.json", "adapter"


@contextlib.contextmanager
def edited_directory(directory: Path) -> Iterator[Path]:
    """Gives a temporary folder, which takes the place and the name of `directory` once whole.

    Whatever goes wrong before, a full disk too, what stood there stays, and nothing else is left.

    Args:
      directory: that is made; an earlier edited model, or an export, in it is replaced.

    Raises:
      ValueError: if it holds anything else.
    """
    check_writable(directory)
    with write_directory_atomically(directory) as temporary:
        yield temporary


def check_writable(directory: Path) -> None:
    """Raises ValueError if a folder holds anything but an edited model or an export."""
    check_replaceable(directory, kind="edited model", foreign=_foreign)


def write_edited(folder: Path, model: Model, ledger: Ledger, *, source: str | Path) -> None:
    """Writes an edited model, its ledger and its adapter into a folder of `edited_directory`.

    Args:
      folder: still empty.
      model: edited, loaded from `source`.
      ledger: of its edits.
      source: the model before.

    Raises:
      ValueError: if the model is not of `source`, or a number does not fit the dtype of its
        tensor.
    """
    checkpoint = open_source(model, source)
    about = {"edit": f"{len(ledger.facts)} facts by {ledger.method}"}
    write_export(model, folder, checkpoint, metadata=about)
    save_ledger(ledger, folder)
    (folder / ADAPTER).mkdir()
    write_adapter(ledger.edits, folder / ADAPTER, source=source)


def stored_memory(directory: Path, layers: Collection[int]) -> dict[int, np.ndarray]:
    """The kernels of some layers' memory as they stand in a checkpoint, `(d, m)` float32."""
    checkpoint = open_checkpoint(directory)
    kernels = {}
    for entry in checkpoint.entries:
        if entry.target == MEMORY and entry.layer in layers:
            stored = checkpoint.tensors[entry.source]
            kernels[entry.layer] = np.array(entry.layout.view(stored.array()), np.float32)
    return kernels


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Writes `edit.json`.

    Raises:
      ValueError: if a value is not plain JSON, such as NaN.
    """
    text = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False)
    (folder / RECORD).write_text(text + "\n", encoding="utf-8")


def _foreign(directory: Path) -> set[str]:
    """What neither `write_edited` nor `export` has written."""
    names = foreign_to_export(directory)
    if find(directory, LEDGER) is None:
        return names
    adapter = directory / ADAPTER
    if adapter.is_dir() and not adapter.is_symlink() and not foreign_to_adapter(adapter):
        names -= {ADAPTER}
    return names - {LEDGER, RECORD}
