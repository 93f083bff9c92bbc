"""Scripts of the shell, with stand-ins for what they call."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from scripts.lasting_table import cells

SLURM = Path(__file__).parent.parent / "scripts" / "slurm.sh"


@pytest.mark.parametrize(
    ("status", "restarts", "again"),
    [(0, "0", False), (143, "0", True), (137, "3", True), (137, "20", False), (2, "0", False)],
)
def test_slurm_puts_a_job_that_was_told_to_end_in_its_queue_again(
    tmp_path, status, restarts, again
):
    """After SIGTERM: 143, or 137 of one that srun killed; with the cores of the allocation."""
    for name, text in (
        ("srun", f'echo "cores $SRUN_CPUS_PER_TASK: $*"; exit {status}'),
        ("scontrol", 'echo "scontrol $*"'),
    ):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    found = {"SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "8", "SLURM_RESTART_COUNT": restarts}
    environment = {**os.environ, **found, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    ended = subprocess.run(
        ["bash", SLURM, "model", "--out", "a b"], env=environment, capture_output=True, text=True
    )
    assert ended.returncode == status
    assert ended.stdout.splitlines()[0] == "cores 8: --kill-on-bad-exit=1 kis scan model --out a b"
    assert ("scontrol requeue 7" in ended.stdout) == again


def test_a_row_says_where_collapse_was_foreseen_and_where_it_came():
    """Foreseen between checkpoints, in the logarithm of edits; found at one, by its signs."""
    scores: dict[str, Any] = {
        name: {"mean": 0.5, "low": 0.25, "high": 0.75, "count": 40}
        for name in ("efficacy", "paraphrase", "neighborhood")
    }
    scores["neighborhood"] = {**scores["efficacy"], "count": 12}
    scores["retention"] = dict.fromkeys(("mean", "low", "high"))
    points = [
        {
            "edits": edits,
            "metrics": scores,
            "perplexity": perplexity,
            "interference": {"edited": {"predicted": lost}},
        }
        for edits, perplexity, lost in ((10, 4.0, 0.0), (1000, None, 1.0))
    ]
    signs = [{"metric": "efficacy"}, {"metric": "perplexity"}]
    method = {"method": "batch", "checkpoints": points}
    told = cells({**method, "collapse": {"edits": 1000, "signs": signs}}, 2.0)
    assert told == [
        "`batch`",
        *["0.50 (0.25 to 0.75)"] * 2,
        "0.50 (0.25 to 0.75) of 12",
        "-",
        "not finite",
        "100",
        "1000 (efficacy, perplexity)",
    ]
    assert cells({**method, "collapse": None}, 2.0, edits=10)[5:] == ["2", "100", "none"]
