"""Writing `compare.json`, which holds all that a comparison draws."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kis_jax.report.output_folder import refuse_foreign, write_json

_OURS = re.compile(r"compare\.json|compare\.html|figures|\..*\.partial(\.\w+)?")


def check_compare_directory(directory: Path) -> None:
    """Refuses an output folder that holds anything but a comparison, which is replaced.

    Raises:
      ValueError: naming what is there instead.
    """
    refuse_foreign(directory, ours=_OURS, kind="a comparison")


def write_compare(directory: Path, record: Mapping[str, Any]) -> None:
    """Writes `compare.json`."""
    directory.mkdir(parents=True, exist_ok=True)
    write_json(directory / "compare.json", record)
