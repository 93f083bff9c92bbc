"""The CSV beside a picture holds what the picture shows."""

import csv
import io

import numpy as np
from matplotlib.figure import Figure

from kis_jax.report.figure_data import COLUMNS, csv_of


def rows_of(figure):
    return list(csv.DictReader(io.StringIO(csv_of(figure))))


def numbers(rows, series, *columns):
    return [[float(r[c]) for c in columns] for r in rows if r["series"] == series]


def test_lines_bands_bars_and_segments_are_told_by_their_labels():
    figure = Figure()
    left, right = figure.subplots(1, 2)
    left.set_title("left, with a comma")
    left.plot([1, 2, 3], [4.0, np.nan, 6.0], label="a line")
    left.fill_between([1, 2], [0, 1], [2, 5], label="a band")
    left.axhline(0.5)
    right.set_ylabel("height")
    right.stairs([3, 7], [0, 1, 2], baseline=0.5, label="_bars")
    right.vlines([1, 2], [0, 1], [8, 9], label="segments")
    right.scatter([5], [6], label="dots")
    rows = rows_of(figure)
    assert tuple(rows[0]) == COLUMNS
    assert {row["panel"] for row in rows} == {"left, with a comma", "height"}
    assert [(r["x"], r["y"]) for r in rows if r["series"] == "a line"] == [
        ("1", "4"), ("2", ""), ("3", "6"),
    ]  # fmt: skip
    assert numbers(rows, "a band", "x", "y", "y_end") == [[1, 2, 0], [2, 5, 1]]
    assert numbers(rows, "bars", "x", "x_end", "y", "y_end") == [[0, 1, 3, 0.5], [1, 2, 7, 0.5]]
    assert numbers(rows, "segments", "x", "y", "y_end") == [[1, 0, 8], [2, 1, 9]]
    assert numbers(rows, "dots", "x", "y") == [[5, 6]]
    assert numbers(rows, "", "y") == [[0.5], [0.5]]


def test_a_matrix_is_a_matrix_and_a_hidden_panel_is_left_out(rng):
    matrix = rng.normal(size=(3, 4))
    matrix[1, 2] = np.nan
    figure = Figure()
    axes = figure.subplots()
    figure.colorbar(axes.imshow(matrix), ax=axes)
    found = np.genfromtxt(io.StringIO(csv_of(figure)), delimiter=",")
    np.testing.assert_allclose(found, matrix, rtol=1e-5)
    two = Figure()
    shown, hidden = two.subplots(1, 2)
    shown.imshow([[1.0, 2.0]])
    hidden.set_visible(False)
    assert csv_of(two) == "1,2\n"


def test_every_series_of_a_scans_figures_has_a_name(two_reports):
    for path in sorted((two_reports[0] / "figures").glob("*.csv")):
        rows = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8"))))
        if path.stem.endswith("superposition"):
            p = np.load(two_reports[0] / f"{path.stem[:9]}.npz")["superposition"]
            found = [[float(value or "nan") for value in row] for row in rows]
            np.testing.assert_allclose(found, p, rtol=1e-5, atol=1e-12)
        else:
            assert tuple(rows[0]) == COLUMNS and len(rows) > 2
            assert all(row[1] for row in rows[1:]), path.name
