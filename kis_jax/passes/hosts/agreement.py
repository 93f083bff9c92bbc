"""Hosts compare what they were asked before they compute anything together."""

from __future__ import annotations

import importlib.metadata
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from kis_jax.checkpoints.files import listed
from kis_jax.passes.hosts.board import Seat, seat
from kis_jax.passes.hosts.meeting import SECONDS

TOLD_EVERY = 30.0  # seconds between two lines on whom a host waits for

_FOLDER = "kis/agreement"
_VERDICT = "verdict"
_GRACE = 30.0  # the others wait for the verdict of process 0 a little longer than it does for them
_PAUSE = 0.1  # seconds between two looks at the board


def agree(
    subject: str,
    state: Callable[[], Mapping[str, Any]],
    *,
    seat: Callable[[], Seat | None] = seat,
    seconds: float = SECONDS,
    tell: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True),
) -> None:
    """Compares what all hosts say, before the first collective; every host calls it.

    Each host leaves its statement with the coordinator; process 0 compares them, and leaves word
    of what it found, so that all hosts end with the same line. No device is used, and no host is
    left waiting for one that has ended.

    Args:
      subject: what is compared, a name of its own in each run, such as "request".
      state: what this host says: plain JSON values by their names for the user. What it raises is
        told on every host.
      seat: this host's place; of the run that it has joined.
      seconds: to wait for the others.
      tell: is given a line at times on whom this host waits for.

    Raises:
      ValueError: on every host, the same: a statement that differs, by name, host and both values;
        what a host raised; or a host that has not spoken in time.

    Examples:
      >>> agree("request", lambda: {"--ridge": 0.1})  # one host agrees with itself
    """
    mine = seat()
    if mine is None:
        state()
        return
    said: dict[str, Any] = {}
    try:
        said["said"] = dict(state())
    except (ValueError, OSError) as error:
        said["fault"] = str(error)
    place = f"{_FOLDER}/{subject}"
    mine.board.key_value_set(f"{place}/{mine.index}", json.dumps(said))
    wait = _Waiting(mine, f"{place}/", subject, tell)
    if mine.index == 0:
        others = range(mine.count)
        found = wait.for_words([str(host) for host in others], seconds)
        verdict = _verdict([found.get(str(host)) for host in others], subject, seconds)
        mine.board.key_value_set(f"{place}/{_VERDICT}", json.dumps(verdict))
    else:
        found = wait.for_words([_VERDICT], seconds + _GRACE)
        late = f"expected word from process 0 on the {subject}, found none in {seconds:.0f} s"
        verdict = found.get(_VERDICT, f"{late}; see what it printed")
    if verdict is not None:
        raise ValueError(verdict)


def versions() -> dict[str, str]:
    """What decides how a request is understood besides itself, by names for the user."""
    names = ("kis_jax", "jax", "jaxlib", "numpy")
    found = {f"version of {name}": importlib.metadata.version(name) for name in names}
    for name in ("jax_enable_x64", "jax_default_matmul_precision"):
        found[name] = str(getattr(jax.config, name))
    return found


def _verdict(said: Sequence[Any], subject: str, seconds: float) -> str | None:
    """What all hosts end with; None if they agree."""
    for host, found in enumerate(said):
        if found is None:
            return (
                f"host {host} of {len(said)}: expected word of its {subject} in {seconds:.0f} s, "
                "found none; see what it printed, and start the same command on every host again"
            )
        if "fault" in found:
            return f"host {host}: {found['fault']}"
    first = said[0]["said"]
    for host, found in enumerate(said[1:], 1):
        other = found["said"]
        different = [
            name
            for name in {**first, **other}
            if name not in first or name not in other or first[name] != other[name]
        ]
        if different:
            name, *more = different
            also = f" ({listed(more, most=3)} differ as well)" if more else ""
            return (
                f"{name}: expected the same on every host, found {_shown(first, name)} on host 0 "
                f"and {_shown(other, name)} on host {host}{also}; start the same command, on the "
                "same files and versions, on every host"
            )
    return None


def _shown(said: Mapping[str, Any], name: str) -> str:
    value = said.get(name, "nothing")
    return "none" if value is None else str(value)


class _Waiting:
    """Looks for words on the board, and says at intervals whose are missing."""

    def __init__(self, mine: Seat, folder: str, subject: str, tell: Callable[[str], None]) -> None:
        self._mine, self._folder, self._subject, self._tell = mine, folder, subject, tell

    def for_words(self, names: Sequence[str], seconds: float) -> dict[str, Any]:
        """The words under these names that are there when all are, or when the time is over."""
        start = told = time.monotonic()
        while True:
            words = self._mine.board.key_value_dir_get(self._folder)
            found = {key.rpartition("/")[2]: word for key, word in words}
            missing = [name for name in names if name not in found]
            now = time.monotonic()
            if not missing or now - start > seconds:
                return {name: json.loads(found[name]) for name in names if name in found}
            if now - told > TOLD_EVERY:
                told, whom = now, "process 0" if missing == [_VERDICT] else listed(missing)
                self._tell(
                    f"host {self._mine.index} of {self._mine.count}: waiting for {whom} to "
                    f"compare the {self._subject}, {now - start:.0f} of {seconds:.0f} s"
                )
            time.sleep(_PAUSE)
