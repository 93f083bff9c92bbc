"""Scripts of the shell, with stand-ins for what they call."""

import os
import subprocess
from pathlib import Path

import pytest

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
