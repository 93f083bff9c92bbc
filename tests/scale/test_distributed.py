"""How hosts find out that they are many; what they say to one another where there is one."""

import numpy as np
import pytest

from kis_jax.measure.hosts import gather_rows
from kis_jax.scale.hosts.distributed import (
    Hosts,
    any_host,
    check_shared,
    each,
    from_first,
    join,
    runs_on_many_hosts,
    share,
    together,
)

SRUN = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_PROCID": "1"}


@pytest.mark.parametrize(
    ("environment", "many"),
    [
        ({}, False),
        (SRUN | {"SLURM_STEP_NUM_TASKS": "4"}, True),
        (SRUN | {"SLURM_STEP_NUM_TASKS": "1"}, False),
        # In a batch script, outside of srun, there is one process whatever was allocated.
        ({"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_NTASKS": "4"}, False),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, True),
        ({"OMPI_COMM_WORLD_SIZE": "1"}, False),
        ({"TPU_WORKER_HOSTNAMES": "host-0,host-1"}, True),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, False),
    ],
)
def test_launchers_are_seen(environment, many):
    assert runs_on_many_hosts(environment) == many


@pytest.mark.parametrize("hosts", [Hosts("a:1"), Hosts(count=2, index=0), Hosts("a:1", 2)])
def test_half_a_cluster_is_refused(hosts):
    with pytest.raises(ValueError, match="expected all three or none"):
        join(hosts)


def test_one_host_agrees_with_itself(tmp_path):
    assert share({"a": [1, None]}) == [{"a": [1, None]}]
    assert from_first(lambda: 3) == 3 and together(lambda: "b") == ["b"]
    assert any_host(True) and not any_host(False)
    check_shared(tmp_path / "none")
    assert not (tmp_path / "none").exists()
    part = np.random.default_rng(0).normal(size=(5, 5))
    order = np.array([3, 1, 0, 2, 4])
    np.testing.assert_array_equal(gather_rows(part, [order])[order], part)


def test_an_error_keeps_its_kind_on_one_host():
    def fail():
        raise FileNotFoundError("no such file")

    with pytest.raises(FileNotFoundError):
        each(fail)
