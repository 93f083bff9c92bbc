"""Writing the files of a scan: the matrices of each layer, then `scan.json`, which ends it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from kis_jax.checkpoints.files import write_atomically

# What a scan writes, and what one that was killed may leave behind.
_OURS = re.compile(
    r"scan\.json|report\.html|figures|second_moments|layer_\d{3,}\.npz|\..*\.partial(\.\w+)?"
)


def clear_leftovers(directory: Path) -> None:
    """Removes the layers and half-written files of a scan that was killed before its end."""
    if not (directory / "scan.json").exists():
        for path in (*directory.glob("layer_*.npz"), *directory.glob(".*.partial*")):
            path.unlink()


def write_layer(directory: Path, layer: int, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes `layer_000.npz` and so on."""
    with write_atomically(directory / f"layer_{layer:03d}.npz") as path:
        np.savez(path, allow_pickle=False, **arrays)


def write_record(directory: Path, record: Mapping[str, object]) -> None:
    """Writes `scan.json`."""
    with write_atomically(directory / "scan.json") as path:
        text = json.dumps(record, indent=1, allow_nan=False)
        path.write_text(text + "\n", encoding="utf-8")


def check_directory(directory: Path, identity: Mapping[str, object]) -> None:
    """Refuses an output folder that holds anything but this very run.

    Args:
      directory: of the output; it need not exist.
      identity: what tells the run from another: fingerprints and settings of `scan.json`.

    Raises:
      ValueError: naming what is there instead.
    """
    if not directory.exists():
        return
    if not directory.is_dir():
        raise ValueError(f"out: expected a folder, found the file {directory}")
    others = [path.name for path in directory.iterdir() if not _OURS.fullmatch(path.name)]
    if others:
        raise ValueError(
            f"out: expected a new folder or that of a scan, found other files in {directory}, such "
            f"as {min(others)}; choose another folder"
        )
    if not (directory / "scan.json").exists():
        return  # interrupted before its end: the second moments know whose they are
    try:
        found = json.loads((directory / "scan.json").read_text(encoding="utf-8"))
        found = {**found["settings"], **found["fingerprints"]}
    except (ValueError, TypeError, KeyError):
        raise ValueError(
            f"out: {directory / 'scan.json'} is damaged, so that its run is not known; choose "
            "another folder, or delete that one"
        ) from None
    different = [name for name in identity if found.get(name) != identity[name]]
    if different:
        raise ValueError(
            f"out: {directory} holds another run ({', '.join(different)} differ); choose another "
            "folder, or delete that one"
        )
