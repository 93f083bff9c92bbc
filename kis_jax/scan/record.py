"""Writing the files of a scan: the matrices of each layer, then `scan.json`, which ends it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from kis_jax.checkpoints.files import write_atomically
from kis_jax.report.output_folder import refuse_foreign, write_json

# Settings that a scan of an earlier version did not have, and what it did.
_LATER = {"inverse": "auto", "shrinkage": False}
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
    write_json(directory / "scan.json", record)


def check_directory(directory: Path, identity: Mapping[str, object]) -> None:
    """Refuses an output folder that holds anything but this very run.

    Args:
      directory: of the output; it need not exist.
      identity: what tells the run from another: fingerprints and settings of `scan.json`.

    Raises:
      ValueError: naming what is there instead.
    """
    refuse_foreign(directory, ours=_OURS, kind="a scan")
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
    found = _LATER | found
    different = [name for name in identity if found.get(name) != identity[name]]
    if different:
        raise ValueError(
            f"out: {directory} holds another run ({', '.join(different)} differ); choose another "
            "folder, or delete that one"
        )
