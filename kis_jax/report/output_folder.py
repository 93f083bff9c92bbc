"""The folder that a command writes into: nothing foreign in it, and records that appear whole."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

from kis_jax.checkpoints.files import write_atomically

LOCK = re.compile(r"\..+\.lock")  # of a folder within, left by a process that was killed


def write_json(path: Path, record: Mapping[str, object]) -> None:
    """Writes a record as JSON, whole or not at all."""
    with write_atomically(path) as temporary:
        text = json.dumps(record, indent=1, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8")


def refuse_foreign(directory: Path, *, ours: re.Pattern[str], kind: str) -> None:
    """Refuses a folder that holds what a command did not write.

    Args:
      directory: of the output; it need not exist.
      ours: what the command writes, and what one that was killed may leave behind.
      kind: of the run, for messages, such as "a scan".

    Raises:
      ValueError: naming what is there instead.
    """
    if not directory.exists():
        return
    if not directory.is_dir():
        raise ValueError(f"out: expected a folder, found the file {directory}")
    others = [
        path.name
        for path in directory.iterdir()
        if not ours.fullmatch(path.name) and not LOCK.fullmatch(path.name)
    ]
    if others:
        raise ValueError(
            f"out: expected a new folder or that of {kind}, found other files in {directory}, such "
            f"as {min(others)}; choose another folder"
        )
