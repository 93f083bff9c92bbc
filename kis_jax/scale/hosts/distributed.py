"""Many hosts that run one command together: how they meet, agree, and notice that one is gone."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import secrets
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

import jax
import numpy as np
from jax.experimental import multihost_utils

from kis_jax.scale.hosts.heartbeat import GRACE_SECONDS
from kis_jax.scale.preemption import Preempted

T = TypeVar("T")

# Of jax's own heartbeat, which ends a process with a message and a trace of jax's: it comes after
# that of `kis_jax.scale.hosts.heartbeat`, for hosts that die before or after that one listens.
HEARTBEAT_SECONDS = 40


@dataclasses.dataclass(frozen=True)
class Hosts:
    """How the processes of a run find one another; what is None is asked of the cluster.

    Attributes:
      coordinator: `host:port` of process 0.
      count: number of processes.
      index: of this process.
    """

    coordinator: str | None = None
    count: int | None = None
    index: int | None = None


def runs_on_many_hosts(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether a launcher started this process as one of several: Slurm, Open MPI, a TPU pod.

    Slurm counts inside of `srun` alone: in a batch script the process is one, whatever was
    allocated. On GKE a pod of TPUs has the names of its hosts in `TPU_WORKER_HOSTNAMES`; elsewhere,
    pass `--distributed`.
    """
    if "SLURM_STEP_ID" in environment and "SLURM_PROCID" in environment:
        return int(environment.get("SLURM_STEP_NUM_TASKS", "1")) > 1
    if "OMPI_COMM_WORLD_SIZE" in environment:
        return int(environment["OMPI_COMM_WORLD_SIZE"]) > 1
    return "," in environment.get("TPU_WORKER_HOSTNAMES", "")


def join(hosts: Hosts) -> None:
    """Meets the other processes of the run; before anything else of jax is used.

    Raises:
      ValueError: if some are not there after five minutes, or the cluster tells too little.
    """
    given = (hosts.coordinator, hosts.count, hosts.index)
    if any(value is not None for value in given) and None in given:
        raise ValueError(
            "coordinator, num_hosts, host: expected all three or none, found "
            f"{hosts.coordinator}, {hosts.count} and {hosts.index}; a TPU pod, Slurm and Open MPI "
            "need none of them"
        )
    try:
        jax.distributed.initialize(
            hosts.coordinator,
            hosts.count,
            hosts.index,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=HEARTBEAT_SECONDS,
        )
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            f"distributed: expected to meet the other hosts, found {' '.join(str(error).split())}; "
            "start the same command on every host, or name them: --coordinator HOST:PORT "
            "--num-hosts N --host 0 to N - 1"
        ) from error


def share(value: Any) -> list[Any]:
    """What every host says, in their order; plain JSON values. A collective.

    Example:
      >>> share({"rows": 3})
      [{'rows': 3}]
    """
    if jax.process_count() == 1:
        return [value]
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.array(len(text), np.int32)).ravel()
    padded = np.zeros(int(lengths.max()), np.uint8)
    padded[: len(text)] = text
    found = np.asarray(multihost_utils.process_allgather(padded))
    return [json.loads(row[:length].tobytes()) for row, length in zip(found, lengths, strict=True)]


def from_first(compute: Callable[[], Any]) -> Any:
    """What process 0 computes, on every host; plain JSON values. A collective.

    Raises:
      ValueError: on every host, if process 0 raises one.
    """
    return together(lambda: compute() if jax.process_index() == 0 else None)[0]


def together(compute: Callable[[], Any]) -> list[Any]:
    """What every host computes for itself, in their order; plain JSON values. A collective.

    Raises:
      ValueError: on every host, if any of them raises one.
    """
    return share(each(compute))


def each(compute: Callable[[], T]) -> T:
    """What this host computes, once all have done so. A collective.

    Raises:
      ValueError: on every host, if any of them raises one: none is left waiting for it.
    """
    value, fault = None, None
    try:
        value = compute()
    except (ValueError, OSError) as error:
        if jax.process_count() == 1:
            raise
        fault = str(error)
    for host, found in enumerate(share(fault)):
        if found is not None:
            raise ValueError(f"host {host}: {found}")
    return cast(T, value)


@contextlib.contextmanager
def ends_with_the_others() -> Iterator[None]:
    """Within it, an error of a collective ends the process at once, in one line.

    Where a host is gone, what the others compute together fails, or waits for ever: the latter
    `heard_by_the_others` ends. At an ordinary exit a process would wait for the host that is gone.
    """
    try:
        yield
    except (ValueError, Preempted):  # on every host
        raise
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1:
            raise
        reason = str(error).strip().splitlines()[0]
        print(
            f"kis: error: process {jax.process_index()} of {jax.process_count()}: expected to "
            f"compute together with the other hosts, found one gone ({reason}); start the same "
            "command on every host again: it goes on from what was saved last",
            file=sys.stderr,
            flush=True,
        )
        if jax.process_index() == 0:  # the others would else find this one gone, in jax's words
            time.sleep(GRACE_SECONDS)
        os._exit(1)
    except BaseException:
        if jax.process_count() == 1:
            raise
        traceback.print_exc()
        os._exit(1)


def any_host(flag: bool) -> bool:
    """Whether any host says so. A collective."""
    return any(share(bool(flag)))


def check_shared(folder: Path) -> None:
    """Checks that all hosts see one folder. A collective.

    Raises:
      ValueError: on every host, if one does not see what another writes there.
    """
    if jax.process_count() == 1:
        return
    name = from_first(lambda: f".shared-{secrets.token_hex(8)}")
    path = folder / name

    def write() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        path.touch()

    def look() -> None:
        # A listing, as network file systems remember what was not there.
        if not folder.is_dir() or name not in os.listdir(folder):
            raise ValueError(
                f"{folder}: expected a folder that all hosts share, found that what process 0 "
                "writes there is not seen here; pass --out on a shared file system"
            )

    from_first(write)
    try:
        each(look)
    finally:
        if jax.process_index() == 0:
            path.unlink(missing_ok=True)
