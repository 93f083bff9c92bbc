import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kis_jax.lifelong.files import read_lifelong
from kis_jax.lifelong.page import draw, small, write_lifelong_report
from tests.report import lifelong_record
from tests.report.test_report_page import Page

FIGURES = ("scores", "forecast", "growth", "probes")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with its page, to look at and not to change."""
    directory = lifelong_record.write(tmp_path_factory.mktemp("lifelong") / "run")
    write_lifelong_report(directory)
    return directory


@pytest.fixture(scope="module")
def page(report: Path) -> Page:
    return Page((report / "report.html").read_text(encoding="utf-8"))


def change(directory: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    record = lifelong_record.record()
    edit(record)
    (directory / "lifelong.json").write_text(json.dumps(record), encoding="utf-8")


def test_every_figure_is_written_for_print(report: Path) -> None:
    written = {path.name for path in (report / "figures").iterdir()}
    assert written == {f"{name}.{kind}" for name in FIGURES for kind in ("png", "svg", "csv")}
    for name in FIGURES:
        with Image.open(report / "figures" / f"{name}.png") as picture:
            assert picture.width >= 1000 and len(np.unique(np.asarray(picture))) > 5


def test_the_page_stands_alone_and_can_be_heard(page: Page) -> None:
    assert not page.open, "every tag is closed"
    assert not {"link", "iframe"} & {tag for tag, _ in page.tags}
    assert len(page.attributes("img")) == len(FIGURES)
    assert all(len(image["alt"] or "") > 30 for image in page.attributes("img"))
    assert all(head.get("scope") in ("col", "row") for head in page.attributes("th"))
    names = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(names) == len(set(names))
    assert {(link["href"] or "")[1:] for link in page.attributes("a")} <= set(names)


def test_what_follows_from_facts_is_a_column_where_it_is_asked(tmp_path, page):
    assert "Portability" not in page.text and "Multi hop" not in page.text
    directory = lifelong_record.write(tmp_path / "run")

    def ask(record):
        for method in record["methods"]:
            for point in method["checkpoints"]:
                found = {"mean": 0.125, "low": 0.1, "high": 0.2, "count": 3}
                point["metrics"]["portability_accuracy"] = found

    change(directory, ask)
    write_lifelong_report(directory)
    shown = Page((directory / "report.html").read_text(encoding="utf-8")).text
    assert "Portability accuracy" in shown and "0.125" in shown and "Multi hop" not in shown


def test_what_came_of_each_method_is_said_in_words(page: Page) -> None:
    assert (
        "sequential: collapse sets in at 100 edits: efficacy 0.41 (limit 0.75), "
        "perplexity – (limit 10.00)." in page.text
    )
    assert "constrained holds to the last of 500 edits." in page.text
    assert "off by at most 1.0 × 10⁻⁷ of what was measured" in page.text
    assert "Of 1 facts no target value was found" in page.text
    assert "Collapse is the first checkpoint of all." in page.text
    assert "<img src=x>" in page.text
    assert (
        "kis lifelong 'org/<img src=x>' --facts 'it'\"'\"'s, a file.json' --corpus factlm "
        "--layer 3 --steps 1,10,100,500 --method sequential,constrained,finetune --targets fixed "
        "Numbers:" in page.text
    )


def test_the_same_record_gives_the_same_bytes(report: Path, tmp_path: Path) -> None:
    again = lifelong_record.write(tmp_path / "again")
    write_lifelong_report(again)
    for path in [report / "report.html", *(report / "figures").iterdir()]:
        assert path.read_bytes() == (again / path.relative_to(report)).read_bytes(), path.name


def test_the_reader_keeps_every_number(report: Path) -> None:
    run = read_lifelong(report)
    assert [course.collapse for course in run.courses] == [100, None, 500]
    course = run.courses[0]
    assert [point.edits for point in course.checkpoints] == list(lifelong_record.STEPS)
    np.testing.assert_allclose(course.curve("efficacy")[2], [0.82, 0.72, 0.92])
    assert np.isnan(course.curve("retention")[0]).all()
    assert run.worst_error == 1e-7 and np.isnan(run.courses[2].last.worst_error)
    assert run.failures == 1 and course.left_out == 1


@pytest.mark.usefixtures("settings_stay")
def test_a_short_run_without_probes_is_drawn(tmp_path: Path) -> None:
    def shorten(record: dict[str, Any]) -> None:
        record["unedited"]["probes"] = {}
        record["methods"] = record["methods"][:1]
        for course in record["methods"]:
            course["checkpoints"] = course["checkpoints"][:1]
            del course["checkpoints"][0]["interference"]["other_facts"]

    change(tmp_path, shorten)
    assert len(draw(read_lifelong(tmp_path))) == 9
    page = Page(write_lifelong_report(tmp_path).read_text(encoding="utf-8"))
    assert "nan" not in page.text.lower() and len(page.attributes("img")) == 3


@pytest.mark.usefixtures("settings_stay")
def test_values_that_moved_beyond_all_sense_are_drawn(tmp_path: Path) -> None:
    def break_values(record: dict[str, Any]) -> None:
        for course in record["methods"]:
            for checkpoint, moved in zip(course["checkpoints"], (1e-8, *[1e307] * 9), strict=False):
                for told in checkpoint["interference"].values():
                    told.update(predicted=moved, measured=moved)

    change(tmp_path, break_values)
    draw(read_lifelong(tmp_path))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda r: r.update(format=2), r"format 1 expected, 2 found; run `kis lifelong` again"),
        (lambda r: r.pop("unedited"), r"the entry 'unedited' is missing"),
        (lambda r: r.update(methods=[]), r"at least one method"),
        (lambda r: r["methods"][0].update(checkpoints=[]), r"at least one checkpoint .*sequential"),
        (
            lambda r: r["methods"][0]["checkpoints"][0].update(perplexity="high"),
            r"an entry is not as expected .*'high'",
        ),
    ],
)
def test_a_broken_record_is_one_error_and_no_page(
    tmp_path: Path, edit: Callable[[dict[str, Any]], object], message: str
) -> None:
    change(tmp_path, edit)
    with pytest.raises(ValueError, match=message):
        write_lifelong_report(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["lifelong.json"]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0.0000"), (3.14e-7, "3.1 × 10⁻⁷"), (-2e-9, "−2.0 × 10⁻⁹"), (0.5, "0.5000")],
)
def test_tiny_numbers_keep_their_digits(value: float, text: str) -> None:
    assert small(value) == text
    assert re.fullmatch("–", small(float("nan")))
