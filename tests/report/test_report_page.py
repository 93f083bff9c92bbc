import base64
import hashlib
import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kis_jax.report import words
from kis_jax.scan.page import write_report

FIGURES = [
    "layers_at_a_glance",
    "kurtosis_by_layer",
    "kurtosis_convergence",
    "second_moment_convergence",
] + [
    f"layer_{layer:03d}_{name}"
    for layer in range(3)
    for name in ("superposition", "density", "angles")
]
VOID = {"meta", "img", "br", "hr", "link", "input"}


class Page(HTMLParser):
    """The page as a browser reads it: its tags with their attributes, and its text."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(source)
        self.close()
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] not in (["style"], ["script"]):
            self.text += data

    def attributes(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def report(two_reports: tuple[Path, Path]) -> Path:
    """A directory with its report, to look at and not to change."""
    return two_reports[0]


@pytest.fixture(scope="module")
def page(report: Path) -> Page:
    return Page((report / "report.html").read_text(encoding="utf-8"))


def edit(directory: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = directory / "scan.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    change(record)
    path.write_text(json.dumps(record), encoding="utf-8")


def test_every_figure_is_written_for_print(report: Path) -> None:
    written = {path.name for path in (report / "figures").iterdir()}
    assert written == {f"{name}.{kind}" for name in FIGURES for kind in ("png", "svg", "csv")}
    for name in FIGURES:
        with Image.open(report / "figures" / f"{name}.png") as picture:
            assert picture.width >= 1000
            assert picture.info["dpi"][0] == pytest.approx(200, abs=1)
            assert len(np.unique(np.asarray(picture))) > 5
        root = ElementTree.parse(report / "figures" / f"{name}.svg").getroot()
        assert root.tag.endswith("svg")
        assert len(list(root.iter())) > 50
        assert "<dc:date>" not in (report / "figures" / f"{name}.svg").read_text()


def test_the_page_loads_nothing_and_runs_its_own_script_alone(report: Path, page: Page) -> None:
    assert not page.open, "every tag is closed"
    assert not {"link", "iframe", "object", "base", "form"} & {tag for tag, _ in page.tags}
    assert [script.get("type") for script in page.attributes("script")] == [
        "application/json",
        None,
    ]
    assert len(page.attributes("img")) == len(FIGURES)
    for _, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")]
        assert attributes.get("src", "data:")[:15] in ("data:", "data:image/png;")
        assert attributes.get("href", "#")[0] == "#"
    policy = [meta.get("content") or "" for meta in page.attributes("meta")]
    source = (report / "report.html").read_text(encoding="utf-8")
    script = source.partition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert any(
        content.startswith("default-src 'none'") and f"script-src 'sha256-{digest}'" in content
        for content in policy
    )


def test_links_within_the_page_arrive(page: Page) -> None:
    names = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(names) == len(set(names))
    targets = {(link["href"] or "")[1:] for link in page.attributes("a")}
    assert targets <= set(names)


def test_hostile_text_stays_text(report: Path, page: Page) -> None:
    source = (report / "report.html").read_text(encoding="utf-8")
    assert source.count("<script") == 2 and "<img src=x" not in source
    assert source.count("</script>") == 2, "no text ends the data's element"
    assert "<script>alert(1)</script>" in page.text
    assert 'Quote "O\'Brien" & <b>co</b>' in page.text
    assert "lone ? surrogate" in page.text
    assert "W" * 300 in page.text
    # A direction override is closed by its own <bdi>.
    assert "<bdi>\u202ereversed</bdi>" in source


def test_layers_and_strongest_pairs_appear_in_words(report: Path, page: Page) -> None:
    record = json.loads((report / "scan.json").read_text())
    for layer in record["layers"]:
        assert f"Layer {layer['layer']}" in page.text
        best = layer["pairs"][0]
        for side in ("edit", "touched"):
            fact = record["facts"][best[side]]
            words = f"The mother tongue of {fact['subject']} is {fact['target']}"
            assert words in page.text
    assert page.text.count("same subject") >= 3
    assert "2 of the 24 facts repeat the subject of an earlier fact" in page.text


def test_pictures_and_tables_can_be_heard(page: Page) -> None:
    assert all(len(image["alt"] or "") > 30 for image in page.attributes("img"))
    assert all(head.get("scope") in ("col", "row") for head in page.attributes("th"))
    assert page.attributes("html")[0]["lang"] == "en"


def test_the_command_is_quoted_and_holds_only_options(page: Page) -> None:
    command = (
        "kis scan 'org/<img src=x>' --corpus 'it'\"'\"'s, a file.txt' --num-facts 24 "
        "--layers 0,1,2 --ridge 0.0 Numbers:"
    )
    assert command in page.text


@pytest.mark.parametrize(
    ("model", "title"), [("/data/checkpoints/gpt2", "gpt2"), ("org/name", "org/name"), ("/", "/")]
)
def test_a_heading_shows_the_end_of_a_path(model: str, title: str) -> None:
    assert words.title(model) == title


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (float("inf"), "–"), (-0.001, "0.00"), (-1.5, "−1.50"), (2.71e6, "2.7 × 10⁶")],
)
def test_numbers_are_good_to_read(value: float | None, text: str) -> None:
    assert words.number(value) == text


def test_the_same_scan_gives_the_same_bytes(two_reports: tuple[Path, Path]) -> None:
    first, second = two_reports
    for path in [first / "report.html", *(first / "figures").iterdir()]:
        assert path.read_bytes() == (second / path.relative_to(first)).read_bytes(), path.name


@pytest.mark.usefixtures("settings_stay")
def test_a_second_report_replaces_the_first(scan_directory: Path) -> None:
    page = scan_directory / "report.html"
    page.write_text("an older page")
    assert write_report(scan_directory) == page
    assert "Knowledge superposition" in page.read_text(encoding="utf-8")
    assert not list(scan_directory.rglob("*.partial"))


def test_a_scan_without_duplicates_says_so(scan_directory: Path) -> None:
    def distinct(record: dict[str, Any]) -> None:
        for index, fact in enumerate(record["facts"]):
            fact.update(subject=f"Subject {index}", duplicate_of=None)

    edit(scan_directory, distinct)
    text = Page(write_report(scan_directory).read_text(encoding="utf-8")).text
    assert "All 24 subjects are distinct." in text
    assert "same subject" not in text


def test_controls_stand_beside_the_statistics(page: Page) -> None:
    for words_for in ("random directions", "other tokens of the same texts", "each subject once"):
        assert page.text.count(words_for) >= 3
    assert "0.432" in page.text and "0.987" in page.text and "1.23" in page.text
    assert "Shrinkage of C 0.2500" in page.text.replace("C0.2500", "C 0.2500")


def test_a_scan_of_before_there_were_controls_is_still_drawn(scan_directory: Path) -> None:
    def older(record: dict[str, Any]) -> None:
        record.pop("second_moment_convergence")
        for layer in record["layers"]:
            for name in ("bulk_std_times_sqrt_rank", "tail_fraction", "shrinkage", "controls"):
                layer.pop(name)
            for step in layer["convergence"]:
                step.pop("bootstrap_low")
                step.pop("bootstrap_high")

    edit(scan_directory, older)
    text = Page(write_report(scan_directory).read_text(encoding="utf-8")).text
    assert "measured no controls; scan again" in text and "nan" not in text.lower()
    assert not (scan_directory / "figures" / "second_moment_convergence.png").exists()


def test_a_scan_without_any_finite_number_is_still_drawn(scan_directory: Path) -> None:
    def empty(record: dict[str, Any]) -> None:
        for layer in record["layers"]:
            layer.update({name: None for name, value in layer.items() if isinstance(value, float)})
            layer.update(pairs=[], convergence=[])

    edit(scan_directory, empty)
    assert "nan" not in Page(write_report(scan_directory).read_text(encoding="utf-8")).text.lower()


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "no scan": (lambda d: (d / "scan.json").unlink(), r"scan\.json: no such file; name the dir"),
    "no JSON": (
        lambda d: (d / "scan.json").write_text('{"format": 1,'),
        r"scan\.json: not valid JSON .*line 1.*; run `kis scan` again",
    ),
    "no text": (lambda d: (d / "scan.json").write_bytes(b"\xff\xfe{"), r"not valid JSON"),
    "a list": (lambda d: (d / "scan.json").write_text("[]"), r"format 1 expected, None found"),
    "another format": (lambda d: edit(d, lambda r: r.update(format=2)), r"2 found; run `kis"),
    "no facts": (lambda d: edit(d, lambda r: r.pop("facts")), r"the entry 'facts' is missing"),
    "no layers": (lambda d: edit(d, lambda r: r.update(layers=[])), r"at least one .* layer"),
    "a pair beyond the facts": (
        lambda d: edit(d, lambda r: r["layers"][0]["pairs"][0].update(edit=99)),
        r"scan\.json: an entry is not as expected",
    ),
    "text for a number": (
        lambda d: edit(d, lambda r: r["layers"][0].update(kurtosis="high")),
        r"scan\.json: an entry is not as expected .*'high'",
    ),
    "no matrices": (
        lambda d: (d / "layer_002.npz").unlink(),
        r"layer_002\.npz: no such file, but scan\.json lists it; run `kis scan`",
    ),
    "matrices cut short": (
        lambda d: (d / "layer_001.npz").write_bytes((d / "layer_001.npz").read_bytes()[:500]),
        r"layer_001\.npz: cannot be read .*; run `kis scan` again",
    ),
    "a matrix missing": (
        lambda d: np.savez(d / "layer_001.npz", superposition=np.eye(24)),
        r"layer_001\.npz: cannot be read .*whitening_cosine.*",
    ),
    "matrices of other facts": (
        lambda d: np.savez(
            d / "layer_001.npz",
            **dict.fromkeys(("superposition", "whitening_cosine", "activation_cosine"), np.eye(5)),
        ),
        r"`superposition` has shape \(5, 5\), but scan\.json lists 24 facts",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_scan_is_one_error_and_no_page(scan_directory: Path, name: str) -> None:
    damage, message = BROKEN[name]
    damage(scan_directory)
    before = set(scan_directory.rglob("*"))
    with pytest.raises(ValueError, match=message) as error:
        write_report(scan_directory)
    assert str(scan_directory) in str(error.value)
    assert "\n" not in str(error.value)
    assert set(scan_directory.rglob("*")) == before


def test_importing_it_loads_neither_jax_nor_matplotlib() -> None:
    program = (
        "import sys, kis_jax.report; print([m for m in ('jax', 'matplotlib') if m in sys.modules])"
    )
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert re.sub(r"\s", "", output.stdout.decode()) == "[]"


def test_writing_a_report_needs_no_jax(scan_directory: Path) -> None:
    program = (
        "import sys, pathlib, kis_jax.scan.page as report; "
        "report.write_report(pathlib.Path(sys.argv[1])); "
        "assert not {'jax', 'scipy', 'matplotlib.pyplot'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program, str(scan_directory)], check=True)
