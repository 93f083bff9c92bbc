"""Hosts that hear from one another: one that has stopped, without dying, ends the run."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator

import jax

from kis_jax.passes.hosts.board import Board, Seat, seat

# A host that has not been heard of for so long is taken for dead, and the others end.
SILENT_SECONDS = 20

_FOLDER = "kis/heartbeat"
_DONE = "done"
# Process 0 keeps the board: it leaves after the others, which would else have jax's trace to read.
GRACE_SECONDS = 3
_SECOND = 1.0


class Heartbeat:
    """Leaves word each second, and listens whether the others do.

    Silence is counted in seconds of this process's own running, so that one that was itself held up
    does not take the others for dead.
    """

    def __init__(
        self,
        board: Board,
        index: int,
        count: int,
        on_silence: Callable[[int], None],
        *,
        silent_seconds: int,
    ) -> None:
        """Names the hosts; nothing runs yet.

        Args:
          board: that all hosts see; process 0 keeps it.
          index: of this process.
          count: of all.
          on_silence: called with the process that has fallen silent, once.
          silent_seconds: after which it has; process 0 waits a little longer.
        """
        self._board, self._index, self._on_silence = board, index, on_silence
        self._most = silent_seconds + (GRACE_SECONDS if index == 0 else 0)
        self._silence = dict.fromkeys(range(count), 0)
        self._words: dict[int, str] = {}
        self._stopped = threading.Event()
        self._threads = [
            threading.Thread(target=target, name=f"heartbeat-{target.__name__}", daemon=True)
            for target in (self._beat, self._listen)
        ]

    def start(self) -> None:
        """Begins to leave word and to listen, in threads."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Tells the others that this process is done, and listens no more."""
        self._stopped.set()
        with contextlib.suppress(Exception):  # whoever keeps the board may have left
            self._say(_DONE)

    def _say(self, word: str) -> None:
        self._board.key_value_set(f"{_FOLDER}/{self._index}", word, allow_overwrite=True)

    def _beat(self) -> None:
        """Leaves word and takes the others'; while the board does not answer, all are silent."""
        beats = 0
        while not self._stopped.wait(_SECOND):
            beats += 1
            try:
                self._say(str(beats))
                words = self._board.key_value_dir_get(_FOLDER)
            except jax.errors.JaxRuntimeError:
                continue
            for key, word in words:
                host = int(key.rpartition("/")[2])
                if word == _DONE or word != self._words.get(host):
                    self._words[host] = word
                    self._silence[host] = 0

    def _listen(self) -> None:
        while not self._stopped.wait(_SECOND):
            for host in self._silence:
                self._silence[host] += 1
            silent = [host for host, seconds in self._silence.items() if seconds > self._most]
            if silent and not self._stopped.is_set():
                # Who does not hear itself does not hear the keeper of the board.
                self._on_silence(0 if self._index in silent else silent[0])
                return


@contextlib.contextmanager
def heard_by_the_others() -> Iterator[None]:
    """Within it, this process ends at once, in one line, when another has fallen silent.

    jax's own heartbeat ends a process too, by a signal and with a trace; so it comes later.
    """
    mine = seat()
    if mine is None:
        yield
        return
    heartbeat = Heartbeat(
        mine.board,
        mine.index,
        mine.count,
        lambda silent: _end(mine, silent),
        silent_seconds=SILENT_SECONDS,
    )
    heartbeat.start()
    try:
        yield
    finally:
        heartbeat.stop()


def _end(mine: Seat, silent: int) -> None:
    print(
        f"kis: error: process {mine.index} of {mine.count}: expected to hear from the other hosts, "
        f"found process {silent} silent for {SILENT_SECONDS} seconds; start the same command on "
        "every host again: it goes on from what was saved last",
        file=sys.stderr,
        flush=True,
    )
    os._exit(1)
