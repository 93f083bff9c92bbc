import errno
import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from kis_jax.cli import console
from kis_jax.cli.console import corpus_progress, print_evaluation, progress
from kis_jax.cli.words import Words
from kis_jax.data.batches import Batch
from tests.cli.tables import TABLES

TEXTS = Path(__file__).parent / "tables.txt"


def entry(mean, low, high, count):
    return {"mean": mean, "low": low, "high": high, "count": count}


def test_an_evaluation_has_a_line_a_measure_and_a_column_a_model(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    none = entry(None, None, None, 0)
    print_evaluation(
        {
            "before": {"efficacy": entry(0.01, 0.0, 0.02, 12), "paraphrase_accuracy": none},
            "after": {"efficacy": entry(1.0, 0.9987, 1.0, 12), "paraphrase_accuracy": none},
        }
    )
    lines = capsys.readouterr().out.splitlines()
    (line,) = [line for line in lines if "efficacy" in line]
    assert "0.010 (0.000 to 0.020)" in line and "1.000 (0.999 to 1.000)" in line
    assert line.index("0.010") < line.index("0.999") < line.index("12")
    (line,) = [line for line in lines if "paraphrase accuracy" in line]
    assert [cell.strip() for cell in line.strip("│").split("│")][1:] == ["-", "-", "0"]


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.__name__)
def test_tables_at_80_columns_are_as_written_down(table, capsys, monkeypatch):
    """`tests/cli/tables.txt` has them as text; `KIS_WRITE_TABLES=1 pytest` writes them anew."""
    monkeypatch.setenv("COLUMNS", "80")
    table()
    printed = "\n".join(line.rstrip() for line in capsys.readouterr().out.splitlines())
    written = (
        dict(part.split(" ==\n", 1) for part in TEXTS.read_text().split("== ") if part)
        if TEXTS.exists()
        else {}
    )
    if os.environ.get("KIS_WRITE_TABLES"):
        written[table.__name__] = f"{printed}\n"
        TEXTS.write_text("".join(f"== {name} ==\n{text}" for name, text in written.items()))
    assert f"{printed}\n" == written[table.__name__]
    assert "…" not in printed and max(map(len, printed.splitlines())) <= 80


@pytest.mark.parametrize("columns", ["40", "20"])
@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.__name__)
def test_no_table_is_cut_however_narrow(table, columns, capsys, monkeypatch):
    """All words that stand in the wide one stand in the narrow one."""
    monkeypatch.setenv("COLUMNS", "200")
    table()
    wide = capsys.readouterr().out
    monkeypatch.setenv("COLUMNS", columns)
    table()
    narrow = capsys.readouterr().out
    assert "…" not in narrow
    lines = "┏┓┗┛┃━┡╇┩│└┴┘┳╈─═┬┼├┤╰╯╭╮┄┌┐ "
    words = {word for word in wide.translate(dict.fromkeys(map(ord, lines), " ")).split()}
    assert not {word for word in words if word not in narrow}


def test_a_log_has_lines_with_rate_and_time_left(capsys, monkeypatch):
    """At an interval, and at the end of each thing that runs; none where nothing did."""
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    with progress("facts") as step:
        for done in range(1, 101):
            now[0] += 1
            step("target values", done, 100)
        step("batch", 50, 200, "layer 3")
    assert capsys.readouterr().err.splitlines() == [
        "target values: 30 of 100 facts, 1 facts/s, 0:01:10 left",
        "target values: 60 of 100 facts, 1 facts/s, 0:00:40 left",
        "target values: 90 of 100 facts, 1 facts/s, 0:00:10 left",
        "target values: 100 of 100 facts, 1 facts/s, 0:00:00 left",
        "batch: 50 of 200 facts, 0 facts/s, layer 3, - left",
    ]
    with corpus_progress(10):
        pass
    assert capsys.readouterr().err == ""
    with progress("facts") as step:
        now[0] += 2
        step("targets", 4, None)
    assert capsys.readouterr().err == "targets: 4 facts, 2 facts/s\n"
    with corpus_progress(10) as on_batch:
        now[0] += 2
        on_batch(Batch(np.zeros((2, 4)), np.ones((2, 4), bool), (0, 1)))
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "second moments: 2 of 10 documents, 1 documents/s, 4 tokens/s, 0:00:08 left"


def test_a_terminal_has_bars(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    with progress("facts") as step:
        step("target values", 3, 4, "layer 1")
    assert "3 of 4 facts, layer 1" in capsys.readouterr().err


def test_words_that_an_encoding_lacks_are_spelt_out():
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    print("Zürich \u2192 🦜", file=Words(stream), flush=True)
    assert raw.getvalue() == b"Z\\xfcrich \\u2192 \\U0001f99c\n"


def test_a_reader_that_has_seen_enough_ends_nothing(tmp_path):
    """Through a real pipe: the results are whole, and there is no word on standard error."""
    ledger = tmp_path / "ledger.txt"
    program = (
        "import sys; from kis_jax.cli import main, app\n"
        "@app.command(name='many')\n"
        "def many():\n"
        "    for line in range(100_000): print('\u2192', line)\n"
        f"    open({str(ledger)!r}, 'w').write('whole')\n"
        "sys.argv = ['kis', 'many']; main()"
    )
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-c", program]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    ) as process:
        assert process.stdout.readline() == b"\\u2192 0\n"
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0 and ledger.read_text() == "whole"


def test_an_interrupt_says_that_the_command_goes_on(kis, monkeypatch):
    def interrupted(directory):
        raise KeyboardInterrupt

    monkeypatch.setattr("kis_jax.compare.record.check_compare_directory", interrupted)
    monkeypatch.setattr("os._exit", sys.exit)  # else of the tests as well
    status, printed, error = kis("compare", "nowhere")
    assert (status, printed) == (130, "")
    assert error == "kis: interrupted; the same command goes on from what it saved, if anything\n"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "kis-compare: expected room to save"),
        (PermissionError(errno.EACCES, "Permission denied", "a/b"), "a/b: Permission denied; run"),
        (OSError("cannot read"), "cannot read; run the same command again"),
    ],
)
def test_what_the_system_refuses_is_one_line_with_its_place(kis, monkeypatch, error, message):
    def refused(directory):
        raise error

    monkeypatch.setattr("kis_jax.compare.record.check_compare_directory", refused)
    status, printed, told = kis("compare", "nowhere")
    assert (status, printed) == (2, "")
    assert told.startswith(f"kis: error: {message}") and told.count("\n") == 1
