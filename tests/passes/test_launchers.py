"""What launchers leave in the environment: a process is joined to its run, or told what is missing.

All of it is simulated: environments as the documentation of each launcher has them.
"""

import pytest

from kis_jax.passes.hosts.distributed import Hosts, Place, place_of
from kis_jax.passes.hosts.launchers import launched

SLURM = {
    "SLURM_JOB_ID": "70",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
    "SLURM_STEP_NODELIST": "gpu[007-009,020],other",
}
OPEN_MPI = {
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_RANK": "2",
    "OMPI_COMM_WORLD_LOCAL_RANK": "0",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
}
OPEN_MPI_4 = OPEN_MPI | {"OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911"}
OPEN_MPI_5 = OPEN_MPI | {"PMIX_NAMESPACE": "prterun-login-2-91@1", "PMIX_RANK": "2"}
ONE_MACHINE = OPEN_MPI | {"OMPI_COMM_WORLD_LOCAL_SIZE": "4"}
TPU = {"TPU_WORKER_HOSTNAMES": "t-0,t-1", "TPU_WORKER_ID": "1"}
SLICES = TPU | {
    "MEGASCALE_NUM_SLICES": "2",
    "MEGASCALE_SLICE_ID": "1",
    "MEGASCALE_COORDINATOR_ADDRESS": "job-0-0.sub:8081",
}
GKE = {"JOB_COMPLETION_INDEX": "1", "KUBERNETES_SERVICE_HOST": "10.0.0.1"}
PMIX = {"PMIX_NAMESPACE": "other", "PMIX_RANK": "1"}
MPICH = {"PMI_SIZE": "2", "PMI_RANK": "1", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "2"}


@pytest.mark.parametrize(
    ("environment", "index", "count", "host", "devices"),
    [
        (SLURM, 3, 4, "gpu007", [1]),
        (SLURM | {"SLURM_STEP_NODELIST": "node1,node2"}, 3, 4, "node1", [1]),
        (SLURM | {"SLURM_STEP_NODELIST": "node1"}, 3, 4, "node1", [1]),
        (
            SLURM | {"SLURM_STEP_TASKS_PER_NODE": "1(x4)", "SLURM_LOCALID": "0"},
            3,
            4,
            "gpu007",
            None,
        ),
        (OPEN_MPI_4, 2, 4, "10.96.0.1", [0]),
        (
            OPEN_MPI_4 | {"OMPI_MCA_orte_hnp_uri": "5.0;tcp6://[fe80::b,26::2]:4"},
            2,
            4,
            "[fe80::b]",
            [0],
        ),
        (OPEN_MPI_5, 2, 4, "login-2", [0]),
        (ONE_MACHINE, 2, 4, "localhost", [0]),
        (SLURM | OPEN_MPI_4, 2, 4, "10.96.0.1", [0]),  # mpirun within an allocation of Slurm
        (TPU, 1, 2, "t-0", None),
        (SLICES, 3, 4, "job-0-0.sub", None),
        (GKE | TPU, 1, 2, "t-0", None),
        (OPEN_MPI_4 | {"JAX_LOCAL_DEVICE_IDS": "0,1"}, 2, 4, "10.96.0.1", None),
        (SLURM | {"CUDA_VISIBLE_DEVICES": "0"}, 3, 4, "gpu007", None),  # dealt out by Slurm
        (SLURM | {"CUDA_VISIBLE_DEVICES": "0,1"}, 3, 4, "gpu007", [1]),
    ],
)
def test_a_process_is_joined(environment, index, count, host, devices):
    place = place_of(Hosts(), environment=environment)
    assert place is not None
    assert (place.hosts.index, place.hosts.count, place.devices) == (index, count, devices)
    name, _, port = place.hosts.coordinator.rpartition(":")
    assert name == host and 1024 < int(port) < 65536


def test_two_runs_of_one_user_meet_at_different_ports():
    other = {**SLURM, "SLURM_STEP_ID": "1"}
    first, second = (place_of(Hosts(), environment=env) for env in (SLURM, other))
    assert first.hosts.coordinator != second.hosts.coordinator


@pytest.mark.parametrize(
    "environment",
    [
        {},
        SLURM | {"SLURM_STEP_NUM_TASKS": "1"},
        SLURM | {"SLURM_STEP_NUM_TASKS": ""},
        # In a batch script, outside of srun, there is one process whatever was allocated.
        {"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_NTASKS": "4"},
        {"OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_RANK": "0"},
        {"OMPI_COMM_WORLD_SIZE": ""},
        {"TPU_WORKER_HOSTNAMES": "localhost"},
        {"KUBERNETES_SERVICE_HOST": "10.0.0.1"},
        {"PMI_SIZE": "1", "PMI_RANK": "0"},
    ],
)
def test_a_process_alone_is_left_alone(environment):
    assert launched(environment) is None
    assert place_of(Hosts(), environment=environment) is None


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        (MPICH, "started as number 1 of 2 by MPICH or Intel MPI, not joined"),
        (GKE, "started as number 1 of several by an indexed job of Kubernetes, not joined"),
        (PMIX, "started as number 1 of several by PMIx, not joined"),
        (OPEN_MPI, "started as number 2 of 4 by Open MPI, not joined"),
        (
            {"MEGASCALE_NUM_SLICES": "2", "MEGASCALE_SLICE_ID": "1"},
            "1 of 2 by TPU slices, not joined",
        ),
        ({k: v for k, v in SLURM.items() if k != "SLURM_STEP_NODELIST"}, "3 of 4 by Slurm, not"),
    ],
)
def test_what_cannot_be_joined_is_told_what_to_pass(environment, said):
    with pytest.raises(ValueError, match="--coordinator HOST:PORT.*or --num-hosts 1") as error:
        place_of(Hosts(), environment=environment)
    assert said in str(error.value)
    assert place_of(Hosts(count=1), environment=environment) is None
    count = None if "of several" not in said else 2
    place = place_of(Hosts("a:9000", count), environment=environment)
    assert place.hosts.coordinator == "a:9000" and place.hosts.index > 0


@pytest.mark.parametrize(
    ("environment", "variable"),
    [
        (OPEN_MPI_4 | {"OMPI_COMM_WORLD_SIZE": "abc"}, "OMPI_COMM_WORLD_SIZE"),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, "OMPI_COMM_WORLD_RANK"),
        (SLURM | {"SLURM_STEP_NUM_TASKS": "2(x3)"}, "SLURM_STEP_NUM_TASKS"),
        (SLURM | {"SLURM_PROCID": "-1"}, "SLURM_PROCID"),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, "TPU_WORKER_ID"),
        (SLICES | {"MEGASCALE_SLICE_ID": ""}, "MEGASCALE_SLICE_ID"),
        (MPICH | {"PMI_RANK": "two"}, "PMI_RANK"),
    ],
)
def test_a_variable_that_is_missing_or_broken_is_named(environment, variable):
    with pytest.raises(ValueError, match=f"^{variable}: expected a whole number.*--num-hosts 1"):
        place_of(Hosts(), environment=environment)
    # Who says all asks no launcher.
    assert place_of(Hosts("a:9000", 2, 1), environment=environment) == Place(Hosts("a:9000", 2, 1))
    assert place_of(Hosts(count=1), environment=environment) is None


def test_slurm_without_a_local_number_takes_all_devices():
    environment = {k: v for k, v in SLURM.items() if k != "SLURM_LOCALID"}
    assert place_of(Hosts(), environment=environment).devices is None


def test_a_rank_beyond_the_size_is_refused():
    with pytest.raises(ValueError, match="^Open MPI: expected a process of 4, found number 4"):
        place_of(Hosts(), environment=OPEN_MPI_4 | {"OMPI_COMM_WORLD_RANK": "4"})


@pytest.mark.parametrize(
    ("hosts", "message"),
    [
        (Hosts("a:1"), "expected all three or none"),
        (Hosts(count=2, index=0), "expected all three or none"),
        (Hosts("a:1", 2), "expected all three or none"),
        (Hosts("localhost", 2, 0), "--coordinator: expected HOST:PORT"),
        (Hosts("localhost:x", 2, 0), "--coordinator: expected HOST:PORT"),
        (Hosts("localhost:0", 2, 0), "--coordinator: expected HOST:PORT"),
        (Hosts("localhost:65536", 2, 1), "--coordinator: expected HOST:PORT"),
        (Hosts(":80", 2, 1), "--coordinator: expected HOST:PORT"),
        (Hosts("a:1", 0, 0), "--num-hosts: expected 1 or more, found 0"),
        (Hosts("a:1", 2, 2), "--host: expected a number from 0 to 1"),
        (Hosts("a:1", 2, -1), "--host: expected a number from 0 to 1"),
        (Hosts(count=1, index=1), "--host: expected a number from 0 to 0"),
    ],
)
def test_what_is_given_is_checked_before_jax_starts(hosts, message):
    with pytest.raises(ValueError, match=message):
        place_of(hosts, environment={})


def test_a_tpu_pod_by_its_metadata_is_left_to_jax():
    assert place_of(Hosts(), distributed=True, environment={}) == Place(Hosts())
