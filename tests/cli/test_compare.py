"""The whole of `kis compare` on scans that are written by hand."""

import json
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from kis_jax.compare.files import read_comparison
from kis_jax.compare.page import verdicts, write_compare_report
from tests import compared_scans

FIGURES = ("by_depth", "laws", "heat_maps", "densities", "convergence")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    return [compared_scans.write_scan(root / f"m{width}", width) for width in (100, 400, 1600)]


@pytest.fixture(scope="module")
def compared(runs, tmp_path_factory):
    """One comparison for all tests that only look at its files."""
    from kis_jax.cli import main

    out = tmp_path_factory.mktemp("compare") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["kis", "compare", *map(str, runs), "--out", str(out)])
        with pytest.raises(SystemExit, match="0"):
            main()
    return out


def test_writes_all_its_files(compared):
    assert {path.name for path in compared.iterdir()} == {"compare.json", "compare.html", "figures"}
    written = {path.name for path in (compared / "figures").iterdir()}
    assert written == {f"{name}.{kind}" for name in FIGURES for kind in ("png", "svg", "csv")}


def test_the_record_alone_gives_the_same_bytes(compared, tmp_path):
    shutil.copy(compared / "compare.json", tmp_path)
    page = write_compare_report(tmp_path)
    for path in [compared / "compare.html", *(compared / "figures").iterdir()]:
        assert path.read_bytes() == (tmp_path / path.relative_to(compared)).read_bytes(), path.name
    assert page == tmp_path / "compare.html"


def test_what_is_drawn_is_what_was_measured(compared, runs):
    comparison = read_comparison(compared)
    assert comparison.depth == 0.5 and [model.drawn for model in comparison.models] == [1, 1, 1]
    for model, run, width in zip(comparison.models, runs, (100, 400, 1600), strict=True):
        with np.load(run / "layer_001.npz") as arrays:
            p = arrays["superposition"]
        np.testing.assert_allclose(model.superposition, np.clip(p, -1, 1), atol=0.5 / 127)
        entries = p[~np.eye(len(p), dtype=bool)] * np.sqrt(width)
        counts = np.histogram(entries, 120, (-12, 12))[0]
        np.testing.assert_array_equal(model.counts, counts)
        assert model.beyond == entries.size - counts.sum()
    assert comparison.models[2].beyond > 0


def test_the_page_loads_nothing_and_keeps_hostile_text(compared):
    source = (compared / "compare.html").read_text(encoding="utf-8")
    tags = []

    class Page(HTMLParser):
        def handle_starttag(self, tag, attrs):
            tags.append((tag, dict(attrs)))

    Page().feed(source)
    assert not {"link", "iframe"} & {tag for tag, _ in tags}
    images = [attributes for tag, attributes in tags if tag == "img"]
    assert len(images) == len(FIGURES) and all(len(image["alt"]) > 30 for image in images)
    assert all(attributes.get("href", "#")[0] == "#" for _, attributes in tags)
    assert "Subject 9" in source and "org/model-1600" in source and "Left out" not in source
    assert "That shows no trend" in source and "<b>Subject" not in source


def test_without_runs_it_draws_again(compared, tmp_path, kis):
    shutil.copy(compared / "compare.json", tmp_path)
    status, printed, _ = kis("compare", "--out", tmp_path)
    assert status == 0 and printed.splitlines()[-1] == f"report: {tmp_path / 'compare.html'}"
    assert "Kurtosis goes as the key dimension to the power" in printed
    status, _, error = kis("compare", "--out", tmp_path / "nowhere")
    assert status == 2 and "expected folders of finished scans, found none" in error


def test_of_two_models_no_trend_is_shown(runs, tmp_path, kis):
    status, printed, error = kis("compare", *runs[:2], "--out", tmp_path / "out")
    assert status == 0, error
    printed = " ".join(printed.split())
    assert "of 2 models: no interval" in printed and "That shows no trend" in printed
    assert "alone explains" not in printed


def test_of_the_committed_family_a_trend_and_its_share_are_told():
    committed = Path(__file__).parents[2] / "docs" / "family" / "sizes"
    said = " ".join(verdicts(read_comparison(committed)))
    assert "95 % interval 0.37 to 1.13" in said and "no trend" not in said
    assert "With the related pairs left as they are" in said


def test_models_of_one_name_are_called_by_their_folders(runs, tmp_path, kis):
    other = shutil.copytree(runs[0], tmp_path / "again")
    status, _, error = kis("compare", runs[0], other, "--out", tmp_path / "out", "--depth", 1)
    assert status == 0, error
    record = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert [model["label"] for model in record["models"]] == ["m100", "again"]
    assert record["models"][0]["drawn"]["layer"] == 2
    assert record["pairs"]["overlaps"][0]["shared"] == 30


def damage_layer(run, change):
    """Of the layer that is drawn, P as `change` makes it."""
    with np.load(run / "layer_002.npz") as file:
        arrays = dict(file)
    np.savez(run / "layer_002.npz", **arrays | {"superposition": change(arrays["superposition"])})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda run: (run / "scan.json").unlink(), "found no scan.json in"),
        (lambda run: (run / "scan.json").write_text("{"), "scan.json: not valid JSON"),
        (lambda run: (run / "layer_002.npz").unlink(), "layer_002.npz: no such file"),
        (lambda run: damage_layer(run, lambda p: p[:-1]), "`superposition` has shape (19, 20)"),
        (lambda run: damage_layer(run, lambda p: p.astype(str) + "?"), "npz: cannot be read"),
        (
            lambda run: ((run / "scan.json").unlink(), (run / "config.json").write_text("{}")),
            "found a model in",
        ),
    ],
)
def test_broken_runs_are_one_line(runs, tmp_path, kis, damage, message):
    run = shutil.copytree(runs[0], tmp_path / "run")
    damage(run)
    status, printed, error = kis("compare", runs[1], run, "--out", tmp_path / "out")
    assert status == 2 and message in error and error.count("\n") == 1 and printed == ""
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "damage",
    [
        lambda record: record["laws"][0].update(models=[9]),
        lambda record: record["laws"].pop(0),
        lambda record: record["models"][1]["means"].pop("kurtosis"),
        lambda record: record["models"][1].update(layers=[]),
        lambda record: record["models"][0]["drawn"]["density"].update(counts=[]),
        lambda record: record["models"][0]["layers"][0].pop("tail_fraction"),
    ],
)
def test_a_damaged_record_is_one_line(compared, tmp_path, kis, damage):
    record = json.loads((compared / "compare.json").read_text())
    damage(record)
    (tmp_path / "compare.json").write_text(json.dumps(record))
    status, _, error = kis("compare", "--out", tmp_path)
    assert status == 2 and error.count("\n") == 1
    assert "compare.json: " in error and "kis compare" in error


def test_a_foreign_folder(runs, tmp_path, kis):
    (tmp_path / "thesis.tex").write_text("precious")
    status, _, error = kis("compare", *runs, "--out", tmp_path)
    assert status == 2 and "found other files" in error
