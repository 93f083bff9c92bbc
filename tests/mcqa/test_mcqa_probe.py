"""Puzzles as a probe of an editing run."""

import numpy as np
import pytest

from kis_jax.data.puzzles import read_puzzles
from kis_jax.lifelong.inputs import open_lifelong
from kis_jax.lifelong.page import write_lifelong_report
from kis_jax.lifelong.record import write_lifelong
from kis_jax.models.memory import memory_kernel, with_memory
from kis_jax.passes.choices.metrics import choice_metrics, predictions_of
from kis_jax.passes.choices.probe import open_probe
from kis_jax.passes.choices.scores import likelihood_scores
from tests.lifelong.lifelong_runs import Bench, no_search, request

NAMES = {"puzzles", "puzzles, all variants", "puzzles, without prior"}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    no_search(monkeypatch)


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    from kis_jax import factlm

    path = tmp_path_factory.mktemp("puzzles") / "few.jsonl"
    path.write_text("".join(factlm.puzzles_path("test").read_text().splitlines(True)[:12]))
    return path


def test_accuracies_are_those_of_an_evaluation(embedded, few):
    model, tokenizer = embedded
    found = open_probe(f"mcqa:{few}", tokenizer, model.config)(model)
    puzzles = read_puzzles(few)
    scores = likelihood_scores(model, tokenizer, puzzles, token_budget=512)
    plain = choice_metrics(puzzles, predictions_of(scores.after_question))
    assert found.keys() == NAMES
    assert found["puzzles"] == plain["overall"]["mean"]
    assert found["puzzles, all variants"] == plain["all_variants"]["mean"]
    without = choice_metrics(puzzles, predictions_of(scores.without_prior))
    assert found["puzzles, without prior"] == without["overall"]["mean"]


def test_a_broken_model_has_no_accuracy(embedded, few):
    model, tokenizer = embedded
    broken = with_memory(model, {0: np.full_like(memory_kernel(model, 0), np.inf)})
    found = open_probe(f"mcqa:{few}", tokenizer, model.config)(broken)
    assert found.keys() == NAMES and np.isnan(list(found.values())).all()


def test_other_probes_are_named(embedded, few):
    model, tokenizer = embedded
    for text in ("quiz:x", "mcqa:", "mcqa"):
        with pytest.raises(ValueError, match="probe: expected mcqa: and a file of puzzles"):
            open_probe(text, tokenizer, model.config)
    with pytest.raises(ValueError, match="found no file nowhere"):
        open_probe("mcqa:nowhere", tokenizer, model.config)
    lines = few.read_text().splitlines(True)
    few.with_name("torn.jsonl").write_text("".join(lines[:2]))
    with pytest.raises(ValueError, match="group 'F-240' without its context variant"):
        open_probe(f"mcqa:{few.with_name('torn.jsonl')}", tokenizer, model.config)


def test_it_is_recorded_at_each_checkpoint_beside_interference(embedded, few, tmp_path):
    bench = Bench(embedded[0], tmp_path)
    asked = request(steps=(1, 3), methods=("sequential",), probe=f"mcqa:{few}")
    record = bench.run(tmp_path / "progress", inputs=open_lifelong(asked))
    assert record["settings"]["probe"] == f"mcqa:{few}"
    assert record["unedited"]["probes"].keys() == NAMES
    for point in record["methods"][0]["checkpoints"]:
        assert point["probes"].keys() == NAMES and point["interference"].keys() >= {"edited"}
        assert all(0 <= value <= 1 for value in point["probes"].values())
    write_lifelong(tmp_path, record)
    page = write_lifelong_report(tmp_path).read_text()
    assert f"--probe mcqa:{few}" in page and ">Puzzles, all variants</th>" in page
    few.write_text("".join(few.read_text().splitlines(True)[:9]))
    with pytest.raises(ValueError, match="found those of another: probe differ"):
        bench.run(tmp_path / "progress", inputs=open_lifelong(asked))


def test_a_run_without_a_probe_is_the_same_as_ever(few):
    assert open_lifelong(request(steps=(1,))).identity["probe"] is None
