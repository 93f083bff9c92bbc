from kis_jax.cli.console import print_evaluation


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
