"""The command `kis`: parses, calls, prints; no mathematics."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Iterator
from typing import Annotated, Any, NoReturn

import typer
import typer.exceptions

from kis_jax.cli.words import Words
from kis_jax.cli.writing import WritesFolder
from kis_jax.compare import command as _compare
from kis_jax.data.notes import DataNote
from kis_jax.edit import command as _edit
from kis_jax.edit import ledger_command as _ledger
from kis_jax.edit import undo_command as _undo
from kis_jax.facts import command as _facts
from kis_jax.inspect import command as _inspect
from kis_jax.lifelong import command as _lifelong
from kis_jax.mcqa import command as _mcqa
from kis_jax.passes.preemption import Preempted, Terminated, terminated_by_signal
from kis_jax.plan import command as _plan
from kis_jax.scan import command as _scan
from kis_jax.stats import command as _stats
from kis_jax.tune import command as _tune
from kis_jax.tune import settings_command as _settings

_INTERRUPTED, _TERMINATED = 130, 143  # as a shell reports processes that signals ended

app = typer.Typer(
    name="kis",
    help="Knowledge in superposition: measure what an edit of a language model would also move.",
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command(name="scan", cls=WritesFolder)(_scan.scan)
app.command(name="compare", cls=WritesFolder)(_compare.compare)
app.command(name="plan", cls=WritesFolder)(_plan.plan)
app.command(name="edit", cls=WritesFolder)(_edit.edit)
app.command(name="undo", cls=WritesFolder)(_undo.undo)
app.add_typer(_ledger.app, name="ledger")
app.command(name="lifelong", cls=WritesFolder)(_lifelong.lifelong)
app.add_typer(_stats.app, name="stats")
app.add_typer(_mcqa.app, name="mcqa")
app.command(name="tune", cls=WritesFolder)(_tune.tune)
app.command(name="settings")(_settings.settings)
app.command(name="facts")(_facts.facts)
app.command(name="inspect")(_inspect.inspect)


def _print_version(wanted: bool) -> None:
    if wanted:
        from kis_jax import __version__

        print(f"kis {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    # With a callback, typer keeps `scan` as a command of its own while it is the only one.
    del version


def main() -> None:
    """Runs the command; what the user can mend is one line on standard error and exit status 2."""
    with (
        contextlib.redirect_stdout(Words(sys.stdout)),
        contextlib.redirect_stderr(Words(sys.stderr)),
    ):
        try:
            _run()
        finally:
            sys.stdout.flush()


def _run() -> None:
    # Advice meant for torch users; set before transformers is imported.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    try:
        with _notes(), terminated_by_signal():
            status = app(args=sys.argv[1:] or ["--help"], standalone_mode=False)
    except typer.exceptions.TyperException as error:
        _fail(f"{error.format_message()} (see kis --help)")
    except (KeyboardInterrupt, typer.Abort):
        status = _INTERRUPTED
    except Terminated:
        status = _TERMINATED
    except Preempted as error:
        print(f"kis: stopped by SIGTERM: {error}; the same command goes on there", file=sys.stderr)
        sys.exit(_TERMINATED)
    except ValueError as error:
        _fail(str(error))
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        reason = error.strerror or str(error)
        _fail(f"{place}{reason}; run the same command again once that is mended")
    if status in (_INTERRUPTED, _TERMINATED):  # typer makes a status of an interrupt
        what = "interrupted" if status == _INTERRUPTED else "stopped by SIGTERM"
        print(
            f"kis: {what}; the same command goes on from what it saved, if anything",
            file=sys.stderr,
        )
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)  # Python's own end crashes under programs that jax's threads still run
    sys.exit(status or 0)


@contextlib.contextmanager
def _notes() -> Iterator[None]:
    """Shows what readers of files have to tell as one line each, as errors are."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", DataNote)
        show = warnings.showwarning

        def note(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
            if issubclass(category, DataNote):
                print(f"kis: note: {' '.join(str(message).split())}", file=sys.stderr)
            else:
                show(message, category, *place, **more)

        warnings.showwarning = note
        yield


def _fail(message: str) -> NoReturn:
    print(f"kis: error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)
