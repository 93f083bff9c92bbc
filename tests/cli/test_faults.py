"""What goes wrong from outside, for each command that runs for long: one line, and nothing spoilt.

In this process, at the boundary that each fault comes through; `tests/cli/test_scan_distributed.py`
and `tests/cli/test_stats.py` have those that take processes of their own.
"""

import errno
import os
import shutil
import signal
import sys

import filelock
import pytest

from kis_jax import factlm
from kis_jax.data import corpora

COMMANDS = {
    "scan": ("scan", "factlm", "--num-facts", "3", "--layers", "5"),
    "streamed": ("scan", "factlm", "--num-facts", "3", "--layers", "5", "--stream"),
    "on a mesh": ("scan", "factlm", "--num-facts", "3", "--layers", "5", "--model-axis", "8"),
    "stats": ("stats", "collect", "factlm"),
    "edit": ("edit", "factlm", "--num-facts", "2", "--layer", "2"),
    "lifelong": ("lifelong", "factlm", "--steps", "1,2", "--num-others", "2"),
    "mcqa": ("mcqa", "train", "scratch", "--epochs", "1"),
}


def one_line(error):
    lines = [line for line in error.splitlines() if line.startswith("kis: ")]
    assert len(lines) == 1 and "Traceback" not in error
    return lines[0]


@pytest.fixture
def text(tmp_path):
    """A corpus of several batches, of short documents."""
    lines = [line for line in factlm.corpus_path().read_text().splitlines() if len(line) > 40]
    path = tmp_path / "corpus.txt"
    path.write_text("\n".join(lines[:700]) + "\n")
    return path


def words(name, out, text):
    more = () if name == "mcqa" else ("--corpus", text)
    if name in ("edit", "lifelong", "scan", "streamed", "on a mesh"):
        more += ("--facts", "factlm")
    if name != "mcqa":
        more += ("--document-length", "8")
    return (*COMMANDS[name], *more, "--out", out)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_second_run_in_one_folder_is_refused(name, kis, tmp_path, text):
    """By the lock of the first, before anything is read; what is there stays as it is."""
    out = tmp_path / "out"
    out.mkdir()
    with filelock.FileLock(tmp_path / ".out.lock"):
        (tmp_path / ".out.lock").write_text("process 7 on node-1")
        status, printed, error = kis(*words(name, out, text))
    assert (status, printed) == (2, "")
    assert "out: expected a folder that no other run writes into" in one_line(error)
    assert "process 7 on node-1" in error
    assert list(out.iterdir()) == []


# Of the others a change of one kind: they read by the same streams. A lifelong run reads no line
# after those that it counted at the start.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "change"),
    [
        *(("scan", change) for change in ("rewritten", "cut", "appended")),
        ("streamed", "appended"),
        ("on a mesh", "appended"),
        ("stats", "cut"),
        ("edit", "appended"),
        ("lifelong", "rewritten"),
    ],
)
def test_a_corpus_that_changes_during_the_pass_is_never_recorded(
    name, change, kis, tmp_path, text, monkeypatch
):
    """In the middle of the pass: once some of it was measured, and may have been saved."""
    monkeypatch.setattr(corpora, "_CHUNK", 100)
    content = text.read_text()
    changed = {
        "rewritten": content.replace("e", "a"),
        "cut": content[: len(content) // 2],
        "appended": content + "One line more.\n",
    }
    tokenize, passed = corpora.tokenize_corpus, []

    def disturbed(documents, tokenizer, *, context_length):
        for place, tokens in enumerate(
            tokenize(documents, tokenizer, context_length=context_length)
        ):
            if place == 150 and not passed:
                passed.append(place)
                text.write_text(changed[change])
            yield tokens

    for module in ("measuring", "hosts.split_corpus"):
        monkeypatch.setattr(f"kis_jax.passes.{module}.tokenize_corpus", disturbed)
    out = tmp_path / "out"
    status, _, error = kis(*words(name, out, text))
    assert passed and status == 2
    assert "to stay as it was when this run began, found that it has changed" in one_line(error)
    assert not list(tmp_path.rglob("*.json")) or not (out / "scan.json").exists()
    assert not (out / "edit.json").exists() and not (out / "lifelong.json").exists()
    # Nothing that was begun is taken for whole by a later run over the text as it is now.
    monkeypatch.setattr("kis_jax.passes.hosts.split_corpus.tokenize_corpus", tokenize)
    if name == "scan" and change == "cut":
        status, _, error = kis(*words(name, tmp_path / "again", text))
        assert status == 0, error


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_a_full_disk_is_one_line(name, kis, tmp_path, text, monkeypatch):
    free = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr("kis_jax.checkpoints.files.shutil", _Full(free))
    status, _, error = kis(*words(name, tmp_path / "out", text))
    assert status == 2
    line = one_line(error)
    assert "expected room for" in line and "found 0.0 MB free" in line
    assert not list(tmp_path.rglob("*.partial*")) and not list(tmp_path.rglob("*.lock"))


def test_a_disk_that_is_full_at_the_end_is_the_same_line(kis, tmp_path, text, monkeypatch):
    """Where the report is written, of which nobody knew how large it would be."""

    def full(*arguments, **named):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("kis_jax.scan.page.write_report", full)
    status, _, error = kis(*words("scan", tmp_path / "out", text))
    line = one_line(error)
    assert status == 2 and "out: expected room to save, found " in line
    assert line.endswith("make room, and the same command goes on from there")


class _Full:
    """`shutil` of a machine whose disk is full."""

    def __init__(self, free):
        self._free = free

    def disk_usage(self, path):
        return self._free

    def __getattr__(self, name):
        return getattr(shutil, name)


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("name", COMMANDS)
def test_a_signal_early_is_one_line_that_says_how_it_goes_on(
    name, sent, kis, tmp_path, text, monkeypatch
):
    """While inputs are opened, where no pass asks for it."""

    def signalled(*arguments, **named):
        os.kill(os.getpid(), sent)
        raise AssertionError("not ended")

    monkeypatch.setattr("os._exit", sys.exit)  # else of the tests as well
    monkeypatch.setattr("kis_jax.passes.inputs.locate", signalled)
    monkeypatch.setattr("kis_jax.passes.hosts.opening.locate", signalled)
    monkeypatch.setattr("kis_jax.edit.inputs.locate", signalled)
    monkeypatch.setattr("kis_jax.mcqa.training.load_multiple_choice", signalled)
    before = signal.getsignal(signal.SIGTERM)
    status, printed, error = kis(*words(name, tmp_path / "out", text))
    assert printed == "" and signal.getsignal(signal.SIGTERM) is before
    what = {signal.SIGTERM: (143, "stopped by SIGTERM"), signal.SIGINT: (130, "interrupted")}[sent]
    assert (status, one_line(error)) == (
        what[0],
        f"kis: {what[1]}; the same command goes on from what it saved, if anything",
    )
    assert not list(tmp_path.rglob("*.lock"))


@pytest.mark.parametrize("value", ["-5", "nan", "inf"])
@pytest.mark.parametrize("option", ["--save-every", "--wait-for-hosts"])
@pytest.mark.parametrize("name", ["scan", "stats"])
def test_seconds_that_are_none_are_refused_by_their_name(name, option, value, kis, tmp_path, text):
    status, _, error = kis(*words(name, tmp_path / "out", text), option, value)
    assert status == 2 and f"{option}: expected seconds" in one_line(error)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("value", ["3", "0", "-2", "16"])
def test_an_axis_that_does_not_go_up_is_refused_by_its_name(value, kis, tmp_path):
    status, _, error = kis("scan", "--model-axis", value, "--out", tmp_path / "out")
    assert status == 2
    assert f"--model-axis: expected a divisor of 8, the number of devices, found {value}" in error


@pytest.mark.parametrize("environment", [{"COLUMNS": "40"}, {"PYTHONIOENCODING": "ascii"}])
def test_results_come_before_words(environment, kis, tmp_path, text, monkeypatch):
    """Whatever becomes of the table, all files are there."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    out = tmp_path / "out"

    def broken(*arguments):
        assert {"scan.json", "report.html"} <= {path.name for path in out.iterdir()}
        raise BrokenPipeError

    monkeypatch.setattr("kis_jax.cli.console.print_layers", broken)
    kis(*words("scan", out, text))
    assert (out / "report.html").is_file()


def test_a_scan_on_a_mesh_ends_with_its_table(kis, tmp_path, text):
    """Printed once all hosts have seen the report."""
    status, printed, error = kis(*words("on a mesh", tmp_path / "out", text))
    assert status == 0, error
    assert "kurtosis" in printed and printed.rstrip().endswith("report.html")
