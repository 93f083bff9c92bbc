"""Writing `plan.json`, which ends a plan."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from kis_jax.report.output_folder import refuse_foreign, write_json

_OURS = re.compile(r"plan\.json|report\.html|figures|second_moments|\..*\.partial(\.\w+)?")


def check_plan_directory(directory: Path) -> None:
    """Refuses an output folder that holds anything but a plan, which is replaced.

    Raises:
      ValueError: naming what is there instead.
    """
    refuse_foreign(directory, ours=_OURS, kind="a plan")


def write_plan(directory: Path, record: Mapping[str, object]) -> None:
    """Writes `plan.json`."""
    write_json(directory / "plan.json", record)
