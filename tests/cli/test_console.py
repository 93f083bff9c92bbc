import errno
import sys

import pytest

from kis_jax.cli.console import print_evaluation
from kis_jax.cli.plan_console import print_plan


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


def test_the_table_of_a_plan_is_whole_in_80_characters(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    best = {
        "method": "constrained",
        "effect": 0.881,
        "carried": 0.732,
        "displacement": 12.345,
        "edits_within_bound": 1_234,
        "score": 0.848,
        "rehearsal": {"score": 0.821},
    }
    layer = {"layer": 31, "num_collisions": 2_345, "clusters": [0] * 11, "reached": 0.87}
    layer |= {"methods": [best], "pairs": []}
    chosen = {"layer": 31, "method": "constrained", "effect": 0.88, "displacement": 12.3}
    nothing = {"contradictions": [], "repetitions": [], "facts": []}
    settings = {"max_displacement": 1.0}
    print_plan(nothing | {"settings": settings, "recommendation": chosen, "layers": [layer]})
    printed = capsys.readouterr().out
    (line,) = [line for line in printed.splitlines() if "constrained   " in line]
    cells = "31 2,345 11 0.87 constrained 0.88 0.73 12.35 1,234 0.848 0.821"
    assert line.split() == cells.split()
    assert "…" not in printed


def test_an_interrupt_says_that_the_command_goes_on(kis, monkeypatch):
    def interrupted(directory):
        raise KeyboardInterrupt

    monkeypatch.setattr("kis_jax.report.check_compare_directory", interrupted)
    monkeypatch.setattr("os._exit", sys.exit)  # else of the tests as well
    status, printed, error = kis("compare", "nowhere")
    assert (status, printed) == (130, "")
    assert error == "kis: interrupted; the same command goes on from what it saved, if anything\n"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device; run the same"),
        (PermissionError(errno.EACCES, "Permission denied", "a/b"), "a/b: Permission denied; run"),
        (OSError("cannot read"), "cannot read; run the same command again"),
    ],
)
def test_what_the_system_refuses_is_one_line_with_its_place(kis, monkeypatch, error, message):
    def refused(directory):
        raise error

    monkeypatch.setattr("kis_jax.report.check_compare_directory", refused)
    status, printed, told = kis("compare", "nowhere")
    assert (status, printed) == (2, "")
    assert told.startswith(f"kis: error: {message}") and told.count("\n") == 1
