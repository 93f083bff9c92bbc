"""Notice of preemption: what a machine sends before it takes itself away, and what a pass does."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator


class Preempted(Exception):
    """A pass ended early on SIGTERM, with all that it had measured saved."""


class Terminated(BaseException):
    """SIGTERM came where nothing asks for it; as an interrupt, it ends what runs."""


@contextlib.contextmanager
def terminated_by_signal() -> Iterator[None]:
    """Turns SIGTERM into `Terminated`, so that files are closed and a last word is said.

    Within it `preemption_notice` may take SIGTERM over for a while.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: object) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before if before is not None else signal.SIG_DFL)


@contextlib.contextmanager
def preemption_notice() -> Iterator[Callable[[], bool]]:
    """Turns SIGTERM into a flag that a loop may ask for, instead of the end of the process.

    Cloud machines and schedulers send SIGTERM some 30 seconds before they stop a process. The
    handler only notes it; a loop asks between two batches, saves, and raises `Preempted`. What
    SIGTERM did before is put back at the end, and happens then if it came after the last question.
    Outside of the main thread, where Python sets no handlers, the flag is never raised.

    Gives:
      A function that tells whether SIGTERM has come.

    Examples:
      >>> import os, signal
      >>> with preemption_notice() as noticed:
      ...     os.kill(os.getpid(), signal.SIGTERM)
      ...     noticed()
      True
    """
    event, told = threading.Event(), False

    def noticed() -> bool:
        nonlocal told
        told = event.is_set()
        return told

    if threading.current_thread() is not threading.main_thread():
        yield event.is_set
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: event.set())
    try:
        yield noticed
    finally:
        signal.signal(signal.SIGTERM, before if before is not None else signal.SIG_DFL)
    if event.is_set() and not told:
        signal.raise_signal(signal.SIGTERM)
