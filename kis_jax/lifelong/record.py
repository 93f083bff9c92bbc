"""Writing `lifelong.json`, which ends a lifelong run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from kis_jax.report.output_folder import refuse_foreign, write_json

_OURS = re.compile(
    r"lifelong\.json|report\.html|figures|second_moments|progress|\..*\.partial(\.\w+)?"
)


def check_lifelong_directory(directory: Path) -> None:
    """Refuses an output folder that holds anything but a lifelong run.

    Whether it is this very run its saved states know.

    Raises:
      ValueError: naming what is there instead.
    """
    refuse_foreign(directory, ours=_OURS, kind="a lifelong run")


def write_lifelong(directory: Path, record: Mapping[str, object]) -> None:
    """Writes `lifelong.json`."""
    write_json(directory / "lifelong.json", record)
