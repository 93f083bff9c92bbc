"""Many hosts that run one command together: how they meet, agree, and notice that one is gone."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
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

from kis_jax.passes.hosts.heartbeat import GRACE_SECONDS
from kis_jax.passes.hosts.launchers import Launch, launched
from kis_jax.passes.hosts.meeting import SECONDS, meet, parse_address
from kis_jax.passes.preemption import Preempted, Terminated

T = TypeVar("T")

# What jax says, as an error of either kind, where the other end of a collective is gone.
_OF_A_COLLECTIVE = re.compile(r"[A-Z_]{6,}: |Gloo ")

# Of jax's own heartbeat, which ends a process with a message and a trace of jax's: it comes after
# that of `kis_jax.passes.hosts.heartbeat`, for hosts that die before or after that one listens.
HEARTBEAT_SECONDS = 40


@dataclasses.dataclass(frozen=True)
class Hosts:
    """How the processes of a run find one another; what is None is asked of the launcher.

    Attributes:
      coordinator: `host:port` of process 0.
      count: number of processes.
      index: of this process.
    """

    coordinator: str | None = None
    count: int | None = None
    index: int | None = None


@dataclasses.dataclass(frozen=True)
class Place:
    """This process among those of a run, as it was found out.

    Attributes:
      hosts: with nothing left out; empty for `jax.distributed` to ask the metadata of a TPU's VM.
      devices: indices of the devices of this machine that are this process's; None for all.
    """

    hosts: Hosts
    devices: list[int] | None = None


def place_of(
    hosts: Hosts, *, distributed: bool = False, environment: Mapping[str, str] = os.environ
) -> Place | None:
    """This process's place in a run on many hosts; None where it is alone.

    Args:
      hosts: as they were given.
      distributed: whether a run on many hosts was asked for in any case.
      environment: in which a launcher leaves what it tells.

    Raises:
      ValueError: if numbers are out of range, or a launcher started this process as one of several
        and tells too little to join the others.

    Examples:
      >>> place_of(Hosts("node-1:8476", 2, 1)).hosts.index
      1
    """
    if hosts.count is not None and hosts.count < 1:
        raise ValueError(f"--num-hosts: expected 1 or more, found {hosts.count}")
    given = (hosts.coordinator, hosts.count, hosts.index)
    launch = None
    if None in given and hosts.count != 1:
        launch = launched(environment)
    if launch is None and not distributed and given == (None,) * 3:
        return None
    if launch is not None:
        hosts = Hosts(
            hosts.coordinator or launch.coordinator,
            launch.size if hosts.count is None else hosts.count,
            launch.rank if hosts.index is None else hosts.index,
        )
        if hosts.count is None or hosts.coordinator is None:
            of = "several" if hosts.count is None else hosts.count
            missing = "" if hosts.count else " and --num-hosts"
            raise ValueError(
                f"hosts: found this process started as number {hosts.index} of {of} by "
                f"{launch.name}, not joined, as that does not tell where they meet; pass "
                f"--coordinator HOST:PORT{missing}, or --num-hosts 1 to run this process alone"
            )
    elif hosts.count == 1 and hosts.coordinator is None:
        hosts = Hosts(None, 1, hosts.index or 0)
    elif None in given and given != (None,) * 3:
        raise ValueError(
            "--coordinator, --num-hosts, --host: expected all three or none, found "
            f"{', '.join('none' if one is None else str(one) for one in given)}; TPU pods, Slurm "
            "and Open MPI need none of them"
        )
    if hosts.count is not None and not 0 <= (hosts.index or 0) < hosts.count:
        raise ValueError(
            f"--host: expected a number from 0 to {hosts.count - 1}, as there are {hosts.count} "
            f"hosts, found {hosts.index}"
        )
    if hosts.coordinator is not None:
        parse_address(hosts.coordinator)
    return None if hosts.count == 1 else Place(hosts, _devices_of(launch, environment))


def _devices_of(launch: Launch | None, environment: Mapping[str, str]) -> list[int] | None:
    """A device a process where several are on one machine, unless they were dealt out before."""
    if launch is None or launch.local is None or environment.get("JAX_LOCAL_DEVICE_IDS"):
        return None
    here, of = launch.local
    for name in ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"):
        if name in environment and len(environment[name].split(",")) < of:
            return None
    return [here] if of > 1 else None


def join(place: Place, *, seconds: float = SECONDS) -> None:
    """Meets the other processes of the run; before anything else of jax is used.

    Args:
      place: of this one.
      seconds: to wait for the others.

    Raises:
      ValueError: on every host that has come, if some are not there in time, or they count
        differently.
    """
    hosts = place.hosts
    if hosts.coordinator is not None and hosts.count is not None and hosts.index is not None:
        meet(hosts.coordinator, hosts.count, hosts.index, seconds=seconds)
    try:
        jax.distributed.initialize(
            hosts.coordinator,
            hosts.count,
            hosts.index,
            local_device_ids=place.devices,
            cluster_detection_method="deactivate" if hosts.coordinator else None,
            initialization_timeout=int(seconds),
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=HEARTBEAT_SECONDS,
        )
    except Exception as error:  # jax and the metadata of a machine raise many kinds
        raise ValueError(
            f"distributed: expected to meet the other hosts, found {' '.join(str(error).split())}; "
            "start the same command on every host, or name them: --coordinator HOST:PORT "
            "--num-hosts N --host 0 to N - 1"
        ) from error


def share(value: Any) -> list[Any]:
    """What every host says, in their order; plain JSON values. A collective.

    Examples:
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
    except Preempted:  # on every host
        raise
    except (ValueError, jax.errors.JaxRuntimeError) as error:
        ours = isinstance(error, ValueError) and not _OF_A_COLLECTIVE.match(str(error))
        if ours or jax.process_count() == 1:  # what is ours is raised on every host
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
    except (KeyboardInterrupt, Terminated) as error:
        if jax.process_count() == 1:
            raise
        by_hand = isinstance(error, KeyboardInterrupt)
        what = "interrupted" if by_hand else "stopped by SIGTERM"
        print(
            f"kis: {what} on process {jax.process_index()} of {jax.process_count()}, which ends "
            "the others; the same command on every host goes on from what was saved last",
            file=sys.stderr,
            flush=True,
        )
        os._exit(130 if by_hand else 143)  # as a shell reports it
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
