"""The folder of an edited model: weights, ledger, adapter and record, which appear at once."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kis_jax.checkpoints import fingerprint
from kis_jax.checkpoints.adapter import MEMORY, foreign_to_adapter, write_adapter
from kis_jax.checkpoints.companions import COMPANIONS
from kis_jax.checkpoints.export import foreign_to_export, open_source, write_export
from kis_jax.checkpoints.files import check_replaceable, find, write_directory_atomically
from kis_jax.checkpoints.ledger import Ledger
from kis_jax.checkpoints.ledger_file import LEDGER, save_ledger
from kis_jax.checkpoints.opening import open_checkpoint
from kis_jax.checkpoints.tensors import INDEX, has_weights, weight_files
from kis_jax.models import Model

RECORD, ADAPTER = "edit.json", "adapter"


@contextlib.contextmanager
def edited_directory(directory: Path, base: str | None = None) -> Iterator[Path]:
    """Gives a temporary folder, which takes the place and the name of `directory` once whole.

    Whatever goes wrong before, a full disk too, what stood there stays, and nothing else is left.

    Args:
      directory: that is made; an earlier edited model, or an export, in it is replaced.
      base: fingerprint of a model of which a copy in it is replaced as well.

    Raises:
      ValueError: if it holds anything else.
    """
    check_writable(directory, base)
    with write_directory_atomically(directory) as temporary:
        yield temporary


def check_writable(directory: Path, base: str | None = None) -> None:
    """Raises ValueError if a folder holds anything but an edited model or an export.

    Nor is anything lost where it holds a copy of the model with the fingerprint `base`.
    """

    def foreign(directory: Path) -> set[str]:
        if base is not None and has_weights(directory) and find(directory, "config.json"):
            copied = set(_files(directory))
            if fingerprint.of_model(directory) == base:
                return {path.name for path in directory.iterdir()} - copied
        return _foreign(directory)

    check_replaceable(directory, kind="edited model", foreign=foreign)


def check_other(directory: Path, source: Path) -> None:
    """Raises ValueError if a folder about to be written is the one that is read."""
    if directory.exists() and directory.samefile(source):
        raise ValueError(
            f"{directory}: expected another folder than the one that is read; name a new one"
        )


def copy_base(source: Path, folder: Path) -> None:
    """Copies a checkpoint, its weights and the files that go with them, byte for byte."""
    for name in _files(source):
        shutil.copyfile(source / name, folder / name)


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
    """The kernels of some layers' memory as they stand in a checkpoint, `(d, m)` float32.

    Of a mixture, those of all experts one below the other.
    """
    checkpoint = open_checkpoint(directory)
    kernels: dict[int, list[np.ndarray]] = {}
    for entry in checkpoint.entries:
        if entry.target == MEMORY and entry.layer is not None and entry.layer in layers:
            stored = np.asarray(entry.layout.view(checkpoint.tensors[entry.source].array()))
            own = stored.reshape(-1, stored.shape[-1]).astype(np.float32)
            kernels.setdefault(entry.layer, []).append(own)
    return {layer: np.concatenate(parts) for layer, parts in kernels.items()}


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Writes `edit.json`.

    Raises:
      ValueError: if a value is not plain JSON, such as NaN.
    """
    text = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False)
    (folder / RECORD).write_text(text + "\n", encoding="utf-8")


def _files(directory: Path) -> list[str]:
    """The names of the files of a checkpoint that are loaded or go with what is."""
    weights = [path.name for path in weight_files(directory)]
    others = sorted(name for name in (*COMPANIONS, INDEX) if find(directory, name) is not None)
    return weights + others


def _foreign(directory: Path) -> set[str]:
    """What neither `write_edited` nor `export` has written."""
    names = foreign_to_export(directory)
    if find(directory, LEDGER) is None:
        return names
    adapter = directory / ADAPTER
    if adapter.is_dir() and not adapter.is_symlink() and not foreign_to_adapter(adapter):
        names -= {ADAPTER}
    return names - {LEDGER, RECORD}
