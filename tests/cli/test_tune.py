"""`kis tune` on the embedded model: what it finds, keeps and refuses."""

import json

import pytest

from kis_jax import factlm
from kis_jax.checkpoints.opening import read_config
from kis_jax.passes.targets.chosen import chosen_settings

FEW = ("--num-documents", "300", "--corpus", "factlm")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("KIS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_budget_too_small_and_a_model_that_knows_nothing(kis, tmp_path, cache):
    moments = tmp_path / "moments"
    status, _, error = kis(
        *("tune", "--budget", "1s", "--second-moments", moments, "--out", tmp_path / "a", *FEW)
    )
    told = error.splitlines()[-1]  # after the progress of the pass over text
    assert status == 2 and told.startswith("kis: error: budget: expected time for one trial")
    status, _, error = kis(
        *("tune", "--facts", "world", "--second-moments", moments, "--out", tmp_path / "b", *FEW)
    )
    assert status == 2 and "expected at least 4 that the model knows" in error
    assert "found 0 of 483" in error
    status, _, error = kis("tune", "--budget", "soon", "--out", tmp_path / "c")
    assert status == 2 and "budget: expected a time such as 10m" in error


@pytest.mark.slow
def test_what_is_found_is_used_and_shown(kis, tmp_path, cache):
    out = tmp_path / "tuned"
    status, printed, error = kis("tune", "--budget", "20m", "--out", out, *FEW)
    assert status == 0, error
    record = json.loads((out / "settings.json").read_text())
    assert "layer" in printed and (out / "report.html").read_text().count("<tr>") > 10
    settings = record["settings"]
    assert 0 <= settings["layer"] < 6 and settings["units"] == "model"
    best = [trial for trial in record["trials"] if trial["num_edits"] == 1][-1]
    assert best["efficacy"] >= 0.95
    status, shown, _ = kis("settings", "--json")
    shown = json.loads(shown)
    assert shown["settings"] == settings and shown["origin"] == record["origin"]
    tuned = chosen_settings(read_config(factlm.model_directory())[1], fingerprint=record["model"])
    assert tuned.layer == settings["layer"]
