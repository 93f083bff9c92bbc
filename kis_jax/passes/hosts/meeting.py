"""How the processes of a run meet, before jax is started.

jax ends a process by a signal, with a trace, where a host does not come, comes twice or counts
otherwise, and where the port is taken. So hosts first meet by themselves, at the very address that
jax then uses.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

from kis_jax.checkpoints.files import listed

SECONDS = 300.0  # that hosts wait for one another if nothing else is asked
TOLD_EVERY = 15.0  # seconds between two lines on whom a host waits for

_PAUSE = 0.2
_SPEAKS = 2.0  # seconds in which who has connected says who it is
_LONGEST = 4096  # bytes of a message
_NAMED = 60.0  # seconds in which a name that is unknown at first may become known
_NO_IPV6 = {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL}
_AGAIN = "start the same command on every host again"


def meet(
    coordinator: str,
    count: int,
    index: int,
    *,
    seconds: float = SECONDS,
    tell: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True),
) -> None:
    """Returns once all processes are there, on each of them.

    Args:
      coordinator: `host:port` of process 0, which listens there until all have come.
      count: of processes, the same for all.
      index: of this one.
      seconds: to wait.
      tell: is given a line at times on whom this host waits for.

    Raises:
      ValueError: if the address is none, its host is unknown or its port taken; on every host that
        has come, if one is missing in time, is there twice, or expects another count.
    """
    host, port = parse_address(coordinator)
    _check_known(host, port, _Deadline(min(seconds, _NAMED), tell))
    deadline = _Deadline(seconds, tell)
    if index == 0:
        _receive(coordinator, port, count, deadline)
    else:
        _attend((host, port), count, index, deadline)


def parse_address(text: str) -> tuple[str, int]:
    """Host and port of `host:port`.

    Raises:
      ValueError: if it is of no such form.

    Examples:
      >>> parse_address("node-1:8476")
      ('node-1', 8476)
    """
    host, colon, port = text.rpartition(":")
    if not colon or not host or not (port.isdecimal() and 0 < int(port) < 2**16):
        raise ValueError(
            f"--coordinator: expected HOST:PORT with a port from 1 to 65535, found {text!r}; name "
            "host 0 and a free port there, such as node-1:8476"
        )
    return host.strip("[]"), int(port)


class _Deadline:
    """The end of waiting, and a line at intervals on the way there."""

    def __init__(self, seconds: float, tell: Callable[[str], None]) -> None:
        self.seconds, self._tell = seconds, tell
        self._start = self._told = time.monotonic()

    def over(self, waiting_for: Callable[[], str]) -> bool:
        """Whether the time is over; tells whom this host waits for if it is time for that."""
        now = time.monotonic()
        if now - self._told > TOLD_EVERY:
            self._told = now
            passed = f"{now - self._start:.0f} of {self.seconds:.0f} s"
            self._tell(f"waiting for {waiting_for()}, {passed}")
        return now - self._start > self.seconds


def _check_known(host: str, port: int, deadline: _Deadline) -> None:
    """Raises ValueError if the name is no host's; that of a pod that starts may become one."""
    while True:
        try:
            socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            return
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or str(error)
        if deadline.over(lambda: f"the name {host} to become known"):
            raise ValueError(
                f"--coordinator: expected the name or address of host 0, found {host!r}, which is "
                f"not known here after {deadline.seconds:.0f} s ({reason}); name it as this "
                "machine sees it"
            )
        time.sleep(_PAUSE)


def _receive(coordinator: str, port: int, count: int, deadline: _Deadline) -> None:
    """Process 0: waits for the others, and lets all go at once."""
    came: dict[int, tuple[socket.socket, str]] = {}
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(_listening(coordinator, port))
        server.settimeout(_PAUSE)

        def missing() -> str:
            hosts = [f"host {host}" for host in range(1, count) if host not in came]
            return f"{listed(hosts)} of {count} at {coordinator}"

        fault = None
        while len(came) < count - 1 and fault is None:
            if deadline.over(missing):
                fault = (
                    f"expected {count} hosts in {deadline.seconds:.0f} s, found none that is "
                    f"{missing()}; see what they printed, and {_AGAIN}"
                )
                break
            with contextlib.suppress(TimeoutError):
                other = stack.enter_context(server.accept()[0])
                fault = _welcome(other, count, came)
        word = json.dumps({"go": fault is None, "fault": fault}).encode() + b"\n"
        for other, _ in came.values():
            with contextlib.suppress(OSError):
                other.sendall(word)
        for other, _ in came.values():  # who closes first keeps the port for a while
            with contextlib.suppress(OSError):
                other.settimeout(_SPEAKS)
                other.recv(1)
    if fault is not None:
        raise ValueError(fault)


def _welcome(
    other: socket.socket, count: int, came: dict[int, tuple[socket.socket, str]]
) -> str | None:
    """Notes who has come; what is wrong with it, told to all. Strangers are left alone."""
    said = _heard(other, _SPEAKS)
    if not isinstance(said, dict) or not {"kis", "count", "name"} <= said.keys():
        return None
    host, name = said["kis"], str(said["name"])
    if not isinstance(host, int):
        return None
    known = came.get(host)
    came[host if known is None else -1 - len(came)] = other, name
    if said["count"] != count:
        return (
            f"--num-hosts: expected the same on every host, found {count} on host 0 and "
            f"{said['count']} on host {host} ({name}); start the same command on every host"
        )
    if not 0 < host < count or known is not None:
        before = "this is one" if host == 0 else f"{known[1]} is one" if known else "there is none"
        return (
            f"--host: expected each number from 0 to {count - 1} once, found {host} of {name}, "
            f"and {before}; number the hosts"
        )
    return None


def _attend(address: tuple[str, int], count: int, index: int, deadline: _Deadline) -> None:
    """All others: come to process 0, and wait until it lets all go."""
    place = f"{address[0]}:{address[1]}"
    reason = "nobody there"

    def first() -> str:
        return f"host 0 of {count} at {place} ({reason})"

    while True:
        try:
            connection = socket.create_connection(address, timeout=_SPEAKS)
            break
        except OSError as error:
            reason = error.strerror or str(error)
        if deadline.over(first):
            raise ValueError(
                f"--coordinator: expected host 0 at {place} in {deadline.seconds:.0f} s, found "
                f"none ({reason}); see what it printed, name it as this machine sees it, and "
                f"{_AGAIN}"
            )
        time.sleep(_PAUSE)
    hello = {"kis": index, "count": count, "name": f"{socket.gethostname()}, process {os.getpid()}"}
    with connection:
        with contextlib.suppress(OSError):
            connection.sendall(json.dumps(hello).encode() + b"\n")
        while True:
            said = _heard(connection, TOLD_EVERY)
            if said is not None or deadline.over(lambda: f"the others, with host 0 at {place}"):
                break
    if not isinstance(said, dict) or "go" not in said:
        raise ValueError(
            f"--coordinator: expected word from host 0 at {place}, found none; see what it "
            f"printed, and {_AGAIN}"
        )
    if not said["go"]:
        raise ValueError(str(said["fault"]))


def _heard(connection: socket.socket, seconds: float) -> Any:
    """A message; None if none comes in time, and False if none ever will."""
    connection.settimeout(seconds)
    text = b""
    try:
        while not text.endswith(b"\n"):
            piece = connection.recv(_LONGEST)
            if not piece or len(text) > _LONGEST:
                return False
            text += piece
        return json.loads(text)
    except TimeoutError:
        return None
    except (OSError, ValueError):
        return False


def _listening(coordinator: str, port: int) -> socket.socket:
    """A socket on the port that jax will take, on all addresses of this machine as jax does."""
    addresses: Iterable[Any] = [("::", True), ("", False)] if socket.has_ipv6 else [("", False)]
    fault: OSError | None = None
    for address, both in addresses:
        family = socket.AF_INET6 if both else socket.AF_INET
        try:
            return socket.create_server((address, port), family=family, dualstack_ipv6=both)
        except OSError as error:
            fault = error
            if address and error.errno not in _NO_IPV6:
                break
    raise ValueError(
        f"--coordinator: expected a free port of this machine, host 0, found {coordinator} taken "
        f"or forbidden ({fault.strerror if fault else 'unknown'}); name another port, and see that "
        "no second process was started with --host 0"
    )
