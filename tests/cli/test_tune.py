"""`kis tune` on the embedded model: what it finds, keeps and refuses."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from kis_jax import factlm
from kis_jax.checkpoints.opening import read_config
from kis_jax.data.facts import read_facts
from kis_jax.passes.targets.chosen import chosen_settings

FEW = ("--num-documents", "300", "--corpus", "factlm")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("KIS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.slow
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
def test_a_model_that_no_edit_changes(kis, tmp_path, cache):
    """One look at the loss and no step: nothing is written, whichever token the key is of."""
    status, _, error = kis(
        *("tune", "--set", "target.steps=1", "--budget", "20m", "--out", tmp_path / "a", *FEW)
    )
    told = error.splitlines()[-1]
    assert status == 2 and told.startswith(
        "kis: error: model: expected a layer at which edits take, found with keys at the token "
    )
    assert "subject_last an efficacy of 0.00 at most (layer 0 0.00;" in told
    assert "; with keys at the token last" in told
    assert not (tmp_path / "a" / "settings.json").exists()


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
    # It keeps facts at the prompt's last token, at the start of a text alone.
    assert settings["target.position"] == "last" and settings["target.prefixed"] is False
    tuned = chosen_settings(read_config(factlm.model_directory())[1], fingerprint=record["model"])
    assert tuned.layer == settings["layer"]


def another_model(folder):
    """factlm with one weight moved by a rounding, so that no settings are known for it."""
    shutil.copytree(factlm.model_directory(), folder)
    weights = load_file(folder / "model.safetensors")
    first = next(iter(weights))
    weights[first] = weights[first].copy()
    weights[first].flat[0] *= np.asarray(1.01, weights[first].dtype)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.mark.slow
def test_a_first_edit_finds_settings_and_the_next_uses_them(kis, tmp_path, cache, monkeypatch):
    model = another_model(tmp_path / "model")
    edit = ("edit", model, "--facts", "factlm", "--num-facts", "4")
    given = (*edit, *FEW, "--second-moments", tmp_path / "moments")
    # It knows nothing of the world, which costs no more than the question.
    status, printed, error = kis(*given, "--out", tmp_path / "a")
    assert status == 0, error
    assert "settings by rule, as the model finds none of its own: it knows none of 64" in printed
    assert not (cache / "settings").exists()
    known = read_facts("factlm")
    monkeypatch.setattr("kis_jax.data.facts.read_facts", lambda source: known)
    monkeypatch.setattr("kis_jax.cli.first_pilot._BUDGET", 90.0)
    for changed in (("--settings", "rule"), ("--layer", "3"), ("--set", "target.stop_at=0.7")):
        status, printed, error = kis(*given, *changed, "--out", tmp_path / "a")
        assert status == 0 and "pilot" not in printed, error
    status, printed, error = kis(*given, "--out", tmp_path / "b")
    assert status == 0, error
    assert "no settings are known for this model: a pilot" in printed
    (kept,) = list((cache / "settings").glob("*.json")) or pytest.fail(printed)
    tuned = json.loads(kept.read_text())
    edited = {fact.case_id for fact in known[:4]}
    assert len(tuned["pilot"]) >= 8 and not edited & set(tuned["pilot"])
    status, again, error = kis(*given, "--out", tmp_path / "c")
    assert status == 0 and "pilot" not in again, error
    for out in ("b", "c"):
        record = json.loads((tmp_path / out / "edit.json").read_text())
        assert record["origin_of_settings"] == tuned["origin"]
        assert record["edit_settings"] == tuned["settings"]
        assert record["layers"] == [tuned["settings"]["layer"]]
