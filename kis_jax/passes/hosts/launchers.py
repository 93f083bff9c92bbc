"""What started this process as one of several: a table of launchers and of what they tell.

Read here rather than by jax, so that what is missing is named with what to pass in its place.
"""

from __future__ import annotations

import dataclasses
import os
import re
import zlib
from collections.abc import Callable, Mapping

Environment = Mapping[str, str]

_REMEDY = (
    "pass --coordinator HOST:PORT, --num-hosts and --host, or --num-hosts 1 to run this process "
    "alone"
)
_TPU_PORT = 8482  # jax's own
_FIRST_PORT, _PORTS = 61440, 4096  # the last of those that no service has of its own


@dataclasses.dataclass(frozen=True)
class Launcher:
    """A row of the table: names of variables, and functions of all of them where one does not do.

    Attributes:
      name: for messages.
      marks: variables that are all set where it started the process.
      size: tells the number of processes; None where nothing does.
      rank: tells which one this is.
      local: tell which one it is on its machine, and of how many there.
      coordinator: gives `host:port` of process 0, or None.
    """

    name: str
    marks: tuple[str, ...]
    size: str | Callable[[Environment], int] | None
    rank: str | Callable[[Environment], int]
    local: Callable[[Environment], tuple[int, int] | None] = lambda found: None
    coordinator: Callable[[Environment], str | None] = lambda found: None


@dataclasses.dataclass(frozen=True)
class Launch:
    """A process that a launcher started as one of several.

    Attributes:
      name: of the launcher.
      size: number of processes; None if it does not tell.
      rank: of this one.
      coordinator: `host:port` of process 0; None if it does not tell.
      local: which one it is on its machine, and of how many there; None if it does not tell.
    """

    name: str
    size: int | None
    rank: int
    coordinator: str | None = None
    local: tuple[int, int] | None = None


def launched(environment: Environment = os.environ) -> Launch | None:
    """What a launcher tells of this process; None if none started it as one of several.

    Raises:
      ValueError: naming a variable that is missing or not to be understood, and what to pass.

    Examples:
      >>> launched({"PMI_SIZE": "2", "PMI_RANK": "1"})
      Launch(name='MPICH or Intel MPI', size=2, rank=1, coordinator=None, local=None)
    """
    found = {name: value for name, value in environment.items() if value.strip()}
    for row in LAUNCHERS:
        if not all(mark in found for mark in row.marks):
            continue
        size = None if row.size is None else _told(row.size, found)
        if size == 1:
            return None
        rank = _told(row.rank, found)
        if size is not None and not 0 <= rank < size:
            raise ValueError(
                f"{row.name}: expected a process of {size}, found number {rank}; {_REMEDY}"
            )
        return Launch(row.name, size, rank, row.coordinator(found), row.local(found))
    return None


def _told(source: str | Callable[[Environment], int], found: Environment) -> int:
    return _number(found, source) if isinstance(source, str) else source(found)


def _number(found: Environment, name: str, default: int | None = None) -> int:
    text = found.get(name, None if default is None else str(default))
    if text is None or not text.strip().isdecimal():
        told = "nothing" if text is None else repr(text)
        raise ValueError(
            f"{name}: expected a whole number from what started this process, found {told}; "
            f"{_REMEDY}"
        )
    return int(text)


def _port(*parts: str) -> int:
    """A port that is the same for all processes of a run, and seldom that of another's."""
    return _FIRST_PORT + zlib.crc32("/".join(parts).encode()) % _PORTS


def _local(rank: str, size: str) -> Callable[[Environment], tuple[int, int] | None]:
    def told(found: Environment) -> tuple[int, int] | None:
        if rank not in found or size not in found:
            return None
        return _number(found, rank), _number(found, size)

    return told


def _slurm_local(found: Environment) -> tuple[int, int] | None:
    """From `SLURM_STEP_TASKS_PER_NODE`, such as "2(x3),1", and the place of this node."""
    text = found.get("SLURM_STEP_TASKS_PER_NODE", "")
    if "SLURM_LOCALID" not in found or not re.fullmatch(r"(\d+(\(x\d+\))?,?)+", text):
        return None
    counts: list[int] = []
    for count, _, times in re.findall(r"(\d+)(\(x(\d+)\))?", text):
        counts += [int(count)] * int(times or 1)
    node = _number(found, "SLURM_NODEID", 0)
    return (_number(found, "SLURM_LOCALID"), counts[node]) if node < len(counts) else None


def _slurm_coordinator(found: Environment) -> str | None:
    """The first of the step's nodes, such as node001 of "node[001-015,020],other"."""
    text = found.get("SLURM_STEP_NODELIST")
    if text is None:
        return None
    before, bracket, rest = text.partition(",")[0].partition("[")
    first = before + re.split(r"[-,\]]", rest)[0] if bracket else before
    return f"{first}:{_port(found.get('SLURM_JOB_ID', ''), found['SLURM_STEP_ID'])}"


def _open_mpi_coordinator(found: Environment) -> str | None:
    """The machine of mpirun, on which process 0 is unless it was sent elsewhere.

    Open MPI 4 has its address in a URI, 5 its name in that of the run, `prterun-name-1234@1`.
    """
    size = found["OMPI_COMM_WORLD_SIZE"]
    job = found.get("OMPI_MCA_orte_hnp_uri") or found.get("PMIX_NAMESPACE") or ""
    if size == found.get("OMPI_COMM_WORLD_LOCAL_SIZE"):
        return f"localhost:{_port(job)}"
    if address := re.search(r"tcp://([^,:]+)|tcp6://\[([^,\]]+)", job):
        host = address[1] or f"[{address[2]}]"
    elif name := re.fullmatch(r"prte(?:run)?-(.+)-\d+@\d+", job):
        host = name[1]
    else:
        return None
    return f"{host}:{_port(job)}"


def _tpu_hosts(found: Environment) -> list[str]:
    text = found.get("TPU_PROCESS_ADDRESSES") or found.get("TPU_WORKER_HOSTNAMES", "localhost")
    return text.split(",")


def _tpu_size(found: Environment) -> int:
    return len(_tpu_hosts(found)) * _number(found, "MEGASCALE_NUM_SLICES", 1)


def _tpu_rank(found: Environment) -> int:
    hosts = _tpu_hosts(found)
    here = _number(found, "TPU_WORKER_ID", 0 if len(hosts) == 1 else None)
    slices = _number(found, "MEGASCALE_NUM_SLICES", 1)
    return here + len(hosts) * _number(found, "MEGASCALE_SLICE_ID", 0 if slices == 1 else None)


def _tpu_coordinator(found: Environment) -> str | None:
    address = found.get("MEGASCALE_COORDINATOR_ADDRESS")
    if address is None and "MEGASCALE_NUM_SLICES" not in found:
        address = _tpu_hosts(found)[0]
    return None if address is None else f"{address.partition(':')[0]}:{_TPU_PORT}"


# The first whose marks are all there counts: mpirun within an allocation of Slurm hands on what
# Slurm told it, and a TPU pod on GKE is an indexed job as well.
LAUNCHERS = (
    Launcher(
        "Open MPI",
        ("OMPI_COMM_WORLD_SIZE",),
        "OMPI_COMM_WORLD_SIZE",
        "OMPI_COMM_WORLD_RANK",
        _local("OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
        _open_mpi_coordinator,
    ),
    Launcher(
        "Slurm",  # within srun: in a batch script the process is one, whatever was allocated
        ("SLURM_STEP_ID", "SLURM_PROCID"),
        lambda found: _number(found, "SLURM_STEP_NUM_TASKS", 1),
        "SLURM_PROCID",
        _slurm_local,
        _slurm_coordinator,
    ),
    Launcher(
        "MPICH or Intel MPI",
        ("PMI_SIZE",),
        "PMI_SIZE",
        "PMI_RANK",
        _local("MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
    ),
    *(
        Launcher(name, (mark,), _tpu_size, _tpu_rank, coordinator=_tpu_coordinator)
        for name, mark in (
            ("TPU slices", "MEGASCALE_NUM_SLICES"),
            ("a TPU pod", "TPU_PROCESS_ADDRESSES"),
            ("a TPU pod", "TPU_WORKER_HOSTNAMES"),
        )
    ),
    Launcher(
        "an indexed job of Kubernetes",
        ("JOB_COMPLETION_INDEX", "KUBERNETES_SERVICE_HOST"),
        None,
        "JOB_COMPLETION_INDEX",
    ),
    Launcher("PMIx", ("PMIX_NAMESPACE", "PMIX_RANK"), None, "PMIX_RANK"),
)
