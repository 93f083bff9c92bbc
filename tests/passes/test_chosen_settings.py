"""Which settings a request gets: by rule, published, from a file, tuned; and single ones set."""

import dataclasses
import json

import pytest

from kis_jax import factlm
from kis_jax.checkpoints import fingerprint
from kis_jax.checkpoints.opening import read_config
from kis_jax.models.families import gpt2
from kis_jax.passes.targets.chosen import NAMES, chosen_settings, flat, tuned_file
from kis_jax.passes.targets.settings import (
    edit_settings,
    published_settings,
    rule_settings,
    shipped_record,
)

CONFIG = gpt2.read_config({})


def test_single_settings_are_set_for_all_methods():
    found = chosen_settings(
        CONFIG, changes=["target.steps=7", "weight=0.5", "layer=3", "target.prefixed=false"]
    )
    assert (found.target.steps, found.batch_target.steps, found.weight) == (7, 7, 0.5)
    assert (found.layer, found.layers, found.target.prefixed) == (3, (3,), False)
    assert found.origin.endswith("set: target.steps=7, weight=0.5, layer=3, target.prefixed=false")


def test_sources(tmp_path, monkeypatch):
    monkeypatch.setenv("KIS_CACHE", str(tmp_path))
    assert chosen_settings(CONFIG, source="published") == published_settings(CONFIG)
    assert chosen_settings(CONFIG, fingerprint="a" * 64) == edit_settings(CONFIG)
    told = {"model": "a" * 64, "origin": "tuned: so", "settings": {"layer": 2, "weight": 0.3}}
    path = tuned_file("a" * 64)
    path.parent.mkdir()
    path.write_text(json.dumps(told))
    tuned = chosen_settings(CONFIG, fingerprint="a" * 64)
    assert (tuned.layer, tuned.weight, tuned.origin) == (2, 0.3, "tuned: so")
    assert chosen_settings(CONFIG, source="rule", fingerprint="a" * 64) == edit_settings(CONFIG)
    assert chosen_settings(CONFIG, fingerprint="b" * 64) == edit_settings(CONFIG)
    with pytest.raises(ValueError, match="expected those of this model, b+, found those of a+"):
        chosen_settings(CONFIG, source=str(path), fingerprint="b" * 64)
    plain = tmp_path / "plain.json"
    plain.write_text(json.dumps(flat(tuned)))
    again = chosen_settings(CONFIG, source=str(plain))
    assert flat(again) == flat(tuned) and str(plain) in again.origin


def test_what_tune_found_comes_with_the_package(tmp_path, monkeypatch):
    """By fingerprint, and factlm's by its shape; the rule knows nothing of it."""
    monkeypatch.setenv("KIS_CACHE", str(tmp_path))
    _, config = read_config(factlm.model_directory())
    record = shipped_record(fingerprint.of_model(factlm.model_directory()))
    assert record is not None and record["pilot"] and record["trials"] and record["evidence"]
    found = chosen_settings(config, fingerprint=record["model"])
    assert record["settings"].items() <= flat(found).items()
    assert found.origin == record["origin"]
    assert edit_settings(config) == found
    rule = chosen_settings(config, source="rule", fingerprint=record["model"])
    assert rule == rule_settings(config) != found and rule.target.position == "subject_last"
    smaller = edit_settings(dataclasses.replace(config, num_layers=4))
    assert (smaller.layer, smaller.target) == (2, found.target)
    assert shipped_record("a" * 64) is None


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        (["target.step=4"], "found 'target.step'; the nearest is target.steps"),
        (["steps=4"], "found 'steps'; the nearest is target.steps"),
        (["wieght=4"], "found 'wieght'; the nearest is weight"),
        (["weight"], "expected name=value, such as target.steps=40, found 'weight'"),
        (["target.steps=many"], "target.steps: expected a whole number, found 'many'"),
        (["target.prefixed=maybe"], "target.prefixed: expected true or false"),
        (["weight=-1"], "weight: expected a positive number, found -1"),
        (["null_space=2"], "null_space: expected a share of ordinary text's energy"),
        (["units=miles"], "units: expected one of model, absolute, found 'miles'"),
        (["target.convention=emmet"], "convention: expected one of own, rome, memit"),
        (["layer=99"], "layer: expected one of the model, 0 to 11, found 99"),
        (["layers="], "expected name=value"),
    ],
)
def test_what_cannot_be_set(changes, match):
    with pytest.raises(ValueError, match=match):
        chosen_settings(CONFIG, changes=changes)


def test_files_that_are_none(tmp_path):
    with pytest.raises(ValueError, match="expected auto, rule, published or a file, found 'memt'"):
        chosen_settings(CONFIG, source="memt")
    (tmp_path / "list.json").write_text("[1]")
    with pytest.raises(ValueError, match="expected a JSON object of names and values, found list"):
        chosen_settings(CONFIG, source=str(tmp_path / "list.json"))
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(ValueError, match="expected a JSON object, found"):
        chosen_settings(CONFIG, source=str(tmp_path / "bad.json"))


def test_every_setting_has_a_meaning():
    from kis_jax.tune.console import _MEANINGS

    assert set(_MEANINGS) == set(NAMES) == set(flat(edit_settings(CONFIG)))
