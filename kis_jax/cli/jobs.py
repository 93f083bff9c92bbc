"""Studies of many commands: each run once, those that fail told at the end, the others going on."""

from __future__ import annotations

import dataclasses
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

_START = "from kis_jax.cli import main; main()"
_TOLD = 300  # characters of what a failed command said last


@dataclasses.dataclass(frozen=True)
class Job:
    """A command line of `kis`.

    Attributes:
      words: after `kis`.
      done: the file that it writes last; where it is, the command is not run again.
    """

    words: tuple[str, ...]
    done: Path

    @property
    def line(self) -> str:
        """As it would be typed."""
        return shlex.join(("kis", *self.words))


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a job; `failure` is what it said last, None where all went well."""

    job: Job
    failure: str | None


Runner = Callable[[Sequence[str]], str | None]
"""Runs a command line of `kis`; gives what it said last if it failed."""


def run_job(job: Job, runner: Runner, report: Callable[[str], None]) -> Outcome:
    """Runs a job if it was not run before.

    Args:
      job: to be run.
      runner: `in_own_process`, or `in_this_process`.
      report: is told of it, a line at a time.

    Examples:
      >>> job = Job(("scan", "no such model"), Path("nowhere"))
      >>> run_job(job, lambda words: "not found", print).failure
      kis scan 'no such model'
        failed: not found
      'not found'
    """
    if job.done.exists():
        report(f"{job.line}\n  done before")
        return Outcome(job, None)
    report(job.line)
    failure = runner(job.words)
    if failure is None and not job.done.exists():
        failure = f"ended well, and yet {job.done} is missing"
    if failure is not None:
        report(f"  failed: {failure}")
    return Outcome(job, failure)


def in_own_process(words: Sequence[str]) -> str | None:
    """Runs `kis` as a process of its own: what kills it, such as want of memory, ends no other."""
    command = [sys.executable, "-c", _START, *words]
    ended = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    if ended.returncode in (0, 1):  # 1: a plan that found collisions
        return None
    return _last_words(ended.stderr) or f"exit status {ended.returncode}"


def in_this_process(words: Sequence[str]) -> str | None:
    """Runs `kis` here, which saves a start-up each time: for many small models."""
    from kis_jax.cli import app

    try:
        app(args=list(words), standalone_mode=False)
    except Exception as error:  # whatever one model's failure is, the others go on
        return _last_words(str(error)) or type(error).__name__
    return None


def _last_words(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][-_TOLD:] if lines else ""
