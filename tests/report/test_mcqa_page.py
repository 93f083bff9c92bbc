import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kis_jax.mcqa.page import write_mcqa_report
from kis_jax.mcqa.record import write_mcqa
from tests.report.test_report_page import Page


def share(mean: float, count: int) -> dict[str, float | int]:
    return {"mean": mean, "low": max(0.0, mean - 0.1), "high": min(1.0, mean + 0.1), "count": count}


def record() -> dict[str, Any]:
    """A made-up `mcqa.json` of two ways of scoring, with odd text."""
    variants = ("original", "semantic", "context")
    puzzles = [
        {
            "id": f"P-{i}",
            "variant": variants[i % 3],
            "question": f"Who is <b>{i}</b>?",
            "choices": ["I", "You", "<img src=x>"],
            "answer": i % 3,
        }
        for i in range(60)
    ]
    names = ("overall", *variants, "original_and_semantic", "all_variants")
    method = {
        "method": "likelihood",
        "metrics": {
            name: share(0.9 - 0.1 * i, 60 if not i else 20) for i, name in enumerate(names)
        },
        "confusion": [[18, 1, 1], [0, 20, 0], [2, 2, 16]],
        "predictions": [2 if i < 6 else i % 3 for i in range(60)],
        "scores": [[0.0, 1.0, 2.0]] * 60,
    }
    return {
        "format": 1,
        "version": "0.1.0",
        "model": "org/<img src=x>",
        "family": "gpt2",
        "settings": {"model": "org/<img src=x>", "puzzles": "it's.jsonl", "answers": True,
                     "prompt": "{}", "prior_prompt": "Answer:", "seed": 0},
        "fingerprints": {"model": "a" * 64},
        "num_puzzles": 60,
        "num_choices": 3,
        "methods": [method, {**method, "method": "likelihood without prior"}],
        "puzzles": puzzles,
    }  # fmt: skip


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("mcqa")
    write_mcqa(directory, record())
    write_mcqa_report(directory)
    return directory


def test_figures_and_page(report: Path) -> None:
    names = ("accuracies", "confusion_0", "confusion_1")
    written = {path.name for path in (report / "figures").iterdir()}
    assert written == {f"{name}.{kind}" for name in names for kind in ("png", "svg", "csv")}
    for name in names:
        with Image.open(report / "figures" / f"{name}.png") as picture:
            assert picture.width >= 1000 and len(np.unique(np.asarray(picture))) > 5
    page = Page((report / "report.html").read_text())
    assert not page.open and not {"script", "link", "iframe"} & {tag for tag, _ in page.tags}
    assert len(page.attributes("img")) == 3
    assert all(len(image["alt"] or "") > 30 for image in page.attributes("img"))
    assert all(head.get("scope") in ("col", "row") for head in page.attributes("th"))
    assert "<img src=x>" in page.text and "Who is <b>0</b>?" in page.text
    assert "By likelihood: 4 of 60" in page.text
    assert "0.900 0.800 to 1.000" in " ".join(page.text.split())
    assert "kis mcqa eval 'org/<img src=x>' --puzzles 'it'\"'\"'s.jsonl' --prompt '{}'" in page.text


def test_the_same_record_gives_the_same_bytes(report: Path, tmp_path: Path) -> None:
    write_mcqa(tmp_path, record())
    write_mcqa_report(tmp_path)
    for path in [report / "report.html", *(report / "figures").iterdir()]:
        assert path.read_bytes() == (tmp_path / path.relative_to(report)).read_bytes(), path.name


def test_predictions_are_a_line_each(report: Path) -> None:
    assert (report / "predictions.txt").read_text().split()[:7] == list("2222220")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.update(format=2), r"format 1 expected, 2 found; run `kis mcqa eval` again"),
        (lambda r: r["methods"][0].update(metrics=None), "right answers are needed for a page"),
        (lambda r: r.pop("puzzles"), "the entry 'puzzles' is missing"),
        (lambda r: r.update(methods=[]), "at least one way of scoring"),
    ],
)
def test_a_broken_record_is_one_error(tmp_path: Path, change: Any, message: str) -> None:
    broken = copy.deepcopy(record())
    change(broken)
    (tmp_path / "mcqa.json").write_text(json.dumps(broken))
    with pytest.raises(ValueError, match=message):
        write_mcqa_report(tmp_path)


@pytest.mark.usefixtures("settings_stay")
def test_puzzles_without_groups_are_drawn(tmp_path: Path) -> None:
    single = record()
    for method in single["methods"]:
        method["metrics"] = {"overall": method["metrics"]["overall"]}
    write_mcqa(tmp_path, single)
    assert "nan" not in write_mcqa_report(tmp_path).read_text().lower().replace("provenance", "")
