"""Writing `mcqa.json`, which ends an evaluation on puzzles, and its predictions."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kis_jax.checkpoints.files import write_atomically
from kis_jax.report.output_folder import refuse_foreign, write_json

_OURS = re.compile(
    r"mcqa\.json|predictions(_[a-z_]+)?\.txt|report\.html|figures|\..*\.partial(\.\w+)?"
)


def check_mcqa_directory(directory: Path) -> None:
    """Refuses an output folder that holds anything but an evaluation, which is replaced.

    Raises:
      ValueError: naming what is there instead.
    """
    refuse_foreign(directory, ours=_OURS, kind="an evaluation on puzzles")


def write_mcqa(directory: Path, record: Mapping[str, Any]) -> None:
    """Writes `mcqa.json`, and `predictions.txt` as submissions to BRAINTEASER have it.

    That is the place of the choice taken, from 0, a line for each puzzle in the order of the file.
    The predictions of a second way of scoring go into `predictions_<its name>.txt`. What an earlier
    evaluation left is removed first: it would be taken for this one's.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for name in ("mcqa.json", "report.html"):
        (directory / name).unlink(missing_ok=True)
    for path in directory.glob("predictions*.txt"):
        path.unlink()
    shutil.rmtree(directory / "figures", ignore_errors=True)
    for place, method in enumerate(record["methods"]):
        ending = "_" + method["method"].replace(" ", "_") if place else ""
        with write_atomically(directory / f"predictions{ending}.txt") as path:
            path.write_text("".join(f"{taken}\n" for taken in method["predictions"]))
    write_json(directory / "mcqa.json", record)
