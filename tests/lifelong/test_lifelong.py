"""Lifelong runs on the embedded model, held against loops and against the model itself."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

import kis_jax as kis
from kis_jax.core.arrays.precision import HOST
from kis_jax.data.facts import read_facts
from kis_jax.data.notes import DataNote
from kis_jax.data.prompts import tokenize_facts
from kis_jax.lifelong import layer as lifelong_layer
from kis_jax.lifelong import targets as lifelong_targets
from kis_jax.lifelong.inputs import (
    METHODS,
    open_lifelong,
    parse_methods,
    parse_steps,
)
from kis_jax.lifelong.store import LifelongStore
from kis_jax.models.memory import memory_kernel, with_memory
from kis_jax.passes.keys import fact_keys
from kis_jax.passes.targets.values import target_values
from tests import references
from tests.lifelong.lifelong_runs import LAYER, Bench, Found, made_up_targets, no_search, request

STEPS = (1, 50, 500)
CLOSED = ("sequential", "constrained", "batch", "null-space")


@pytest.fixture(scope="module")
def bench(embedded, tmp_path_factory):
    return Bench(embedded[0], tmp_path_factory.mktemp("lifelong"))


@pytest.fixture(autouse=True)
def quick_targets(monkeypatch):
    no_search(monkeypatch)


@pytest.fixture(scope="module")
def long_run(bench):
    """500 edits by each closed form; all tests look at the one run."""
    with pytest.MonkeyPatch.context() as patch:
        no_search(patch)
        directory = bench.folder / "long"
        record = bench.run(directory, steps=STEPS, methods=CLOSED)
    return directory, record


@pytest.fixture(scope="module")
def asked(embedded):
    """Keys and values of the 500 facts, and the keys of others, from the model alone."""
    model, tokenizer = embedded
    inputs = open_lifelong(request(steps=STEPS))
    found = made_up_targets(model, tokenizer, inputs.facts, layer=LAYER, token_budget=4096)
    others = {
        kind: fact_keys(model, prompts, token_budget=4096)[LAYER].astype(np.float64)
        for kind, prompts in (("other_facts", inputs.others), ("text", inputs.text_prompts))
    }
    return found.keys.astype(np.float64), found.values.astype(np.float64), others


def course(record, method):
    return next(entry for entry in record["methods"] if entry["method"] == method)


@pytest.mark.parametrize("method", CLOSED)
def test_the_forecast_equals_the_measurement_at_every_checkpoint(long_run, method):
    _, record = long_run
    checkpoints = course(record, method)["checkpoints"]
    assert [point["edits"] for point in checkpoints] == list(STEPS)
    for point in checkpoints:
        moved = point["interference"]
        assert set(moved) == {"edited", "other_facts", "text"}
        for group in ("other_facts", "text"):
            assert moved[group]["error"] < 1e-4
            assert moved[group]["measured"] > 1e-6, "something was moved"
        lossless = method == "constrained" or (method == "sequential" and point["edits"] == 1)
        if lossless:
            assert moved["edited"]["error"] is None and moved["edited"]["largest"] < 1e-4
        else:
            assert moved["edited"]["error"] < 1e-4


def test_what_is_measured_is_what_a_loop_on_the_model_does(long_run, asked, bench):
    """500 rank-one edits, each made to the model that the one before it left."""
    directory, record = long_run
    keys, values, others = asked
    before = np.asarray(memory_kernel(bench.model, LAYER), np.float64)
    with HOST.active():
        whitener = kis.whitener(bench.second_moment)
    model, told = bench.model, {}
    for t, (key, value) in enumerate(zip(keys, values, strict=True), 1):
        with HOST.active():
            kernel = np.asarray(memory_kernel(model, LAYER), np.float64)
            edit = kis.edit_rank_one(kernel, key, value, whitener)
        model = kis.edited(model, {LAYER: edit})
        if t in STEPS:
            told[t] = np.asarray(memory_kernel(model, LAYER), np.float64)
    scale = np.linalg.norm(values - keys @ before, axis=1)
    for point in course(record, "sequential")["checkpoints"]:
        t, kernel = point["edits"], told[point["edits"]]
        off = np.linalg.norm(keys[:t] @ kernel - values[:t], axis=1) / scale[:t]
        np.testing.assert_allclose(
            point["interference"]["edited"]["measured"], off.mean(), rtol=1e-4, atol=1e-6
        )
        for kind, rows in others.items():
            moved = np.linalg.norm(rows @ (kernel - before), axis=1)
            moved /= np.linalg.norm(rows @ before, axis=1)
            np.testing.assert_allclose(
                point["interference"][kind]["measured"], moved.mean(), rtol=1e-4
            )
        np.testing.assert_allclose(
            point["update"]["norm"], np.linalg.norm(kernel - before), rtol=1e-4
        )


def test_the_forecast_is_that_of_p(long_run, asked, bench):
    """The same numbers from `kis.forecast`, which is given P and what was requested, no more."""
    _, record = long_run
    keys, values, others = asked
    kernel = np.asarray(memory_kernel(bench.model, LAYER), np.float64)
    inverse = np.linalg.inv(bench.second_moment)
    gram = keys @ inverse @ keys.T
    p = gram / np.diagonal(gram)[:, None]
    p_text = keys @ inverse @ others["text"].T / np.diagonal(gram)[:, None]
    requested = values - keys @ kernel
    with HOST.active():
        foreseen = kis.forecast(p, requested, p_text)
        on_edited, on_text = np.asarray(foreseen.on_edited), np.asarray(foreseen.on_others)
    scale = np.linalg.norm(requested, axis=1)
    for point in course(record, "sequential")["checkpoints"]:
        t, moved = point["edits"], point["interference"]
        share = (on_edited[t - 1, :t] / scale[:t]).mean()
        np.testing.assert_allclose(moved["edited"]["predicted"], share, rtol=1e-5, atol=1e-7)
        share = (on_text[t - 1] / np.linalg.norm(others["text"] @ kernel, axis=1)).mean()
        np.testing.assert_allclose(moved["text"]["predicted"], share, rtol=1e-5)


def test_constrained_edits_are_the_least_update_that_keeps_all(long_run, asked, bench):
    _, record = long_run
    keys, values, _ = asked
    entry = course(record, "constrained")
    out = {left["fact"] for left in entry["left_out"]}
    kept = np.array([i for i in range(50) if i not in out])
    before = np.asarray(memory_kernel(bench.model, LAYER), np.float64)
    expected = references.constrained_edit(before, keys[kept], values[kept], bench.second_moment)
    point = next(point for point in entry["checkpoints"] if point["edits"] == 50)
    assert point["made"] == len(kept)
    np.testing.assert_allclose(
        point["update"]["norm"], np.linalg.norm(expected - before), rtol=1e-4
    )


def test_a_layers_keys_do_not_depend_on_its_own_kernel(bench):
    """So values are keys @ kernel, and what is measured is what the layer does."""
    inputs = open_lifelong(request(steps=(3,)))
    kernel = 3 * np.asarray(memory_kernel(bench.model, LAYER))
    after = with_memory(bench.model, {LAYER: kernel})
    keys = [fact_keys(model, inputs.others, token_budget=512) for model in (bench.model, after)]
    np.testing.assert_array_equal(keys[0][LAYER], keys[1][LAYER])
    assert (keys[0][LAYER + 1] != keys[1][LAYER + 1]).any()


def test_collapse_shows_in_the_record(long_run):
    _, record = long_run
    for method in CLOSED:
        entry = course(record, method)
        told = [(point["edits"], bool(point["signs"])) for point in entry["checkpoints"]]
        first = next((t for i, (t, _) in enumerate(told) if all(s for _, s in told[i:])), None)
        assert (entry["collapse"] or {"edits": None})["edits"] == first


def test_retention_and_the_latest_edits_make_up_all(long_run):
    """Evaluated facts are spread over all edits; earlier ones and the last block share them."""
    _, record = long_run
    for point in course(record, "constrained")["checkpoints"]:
        metrics = point["metrics"]
        parts = [metrics["retention"], metrics["latest"]]
        assert sum(part["count"] for part in parts) == metrics["efficacy"]["count"] <= 4
        total = sum(part["count"] * (part["mean"] or 0) for part in parts)
        assert total == pytest.approx(metrics["efficacy"]["mean"] * metrics["efficacy"]["count"])
    first = course(record, "constrained")["checkpoints"][0]["metrics"]
    assert first["retention"] == {"mean": None, "low": None, "high": None, "count": 0}


def test_targets_are_recomputed_on_the_model_as_it_is(bench, embedded, monkeypatch, tmp_path):
    """Against a loop that knows nothing of ledgers: find v*, edit the model, go on."""
    monkeypatch.setattr(lifelong_targets, "target_values", target_values)
    monkeypatch.setattr(lifelong_layer, "default_prefixes", lambda *_, **__: ("", "So it is."))
    inputs = open_lifelong(
        request(steps=(1, 3), methods=("rome", "constrained"), targets="recomputed")
    )
    target = dataclasses.replace(inputs.settings.target, steps=3, convention="rome")
    inputs = dataclasses.replace(
        inputs, settings=dataclasses.replace(inputs.settings, target=target)
    )
    record = bench.run(tmp_path, inputs=inputs)
    with HOST.active():
        whitener = kis.whitener(bench.second_moment)
    model = bench.model
    before = np.asarray(memory_kernel(model, LAYER), np.float64)
    for fact in inputs.facts:
        found = target_values(
            model, embedded[1], [fact], layer=LAYER, settings=target,
            prefixes=record["methods"][0]["prefixes"],
        )  # fmt: skip
        with HOST.active():
            kernel = np.asarray(memory_kernel(model, LAYER), np.float64)
            edit = kis.edit_rank_one(kernel, found.keys[0], found.values[0], whitener)
        model = kis.edited(model, {LAYER: edit})
    norm = np.linalg.norm(np.asarray(memory_kernel(model, LAYER), np.float64) - before)
    rome, constrained = (entry["checkpoints"][-1] for entry in record["methods"])
    np.testing.assert_allclose(rome["update"]["norm"], norm, rtol=1e-3)
    assert [entry["targets"] for entry in record["methods"]] == 2 * ["recomputed"]
    for point in (rome, constrained):
        for group in point["interference"].values():
            assert group["error"] is None or group["error"] < 1e-4
    assert constrained["interference"]["edited"]["largest"] < 1e-4


def test_each_method_has_target_values_of_its_own_settings(bench, monkeypatch, tmp_path):
    searched = []

    def noted(model, tokenizer, facts, *, settings, **options):
        searched.append(settings)
        return made_up_targets(model, tokenizer, facts, **options)

    monkeypatch.setattr(lifelong_targets, "target_values", noted)
    inputs = open_lifelong(
        request(
            steps=(2,),
            methods=("sequential", "batch", "constrained", "null-space"),
            settings="published",
        )
    )
    bench.run(tmp_path, inputs=inputs)
    assert searched == [inputs.settings.target, inputs.settings.batch_target]
    assert searched[0] != searched[1]


SHORT = {"steps": (1, 4), "methods": ("sequential", "batch", "finetune")}


@pytest.fixture(scope="module")
def short_run(bench):
    with pytest.MonkeyPatch.context() as patch:
        no_search(patch)
        return bench.run(bench.folder / "short", **SHORT)


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.mark.parametrize(
    "moment", [2, *(pytest.param(later, marks=pytest.mark.slow) for later in (5, 8, 11)), 14]
)
def test_a_run_stopped_at_any_save_ends_with_the_same_record(
    bench, short_run, tmp_path, monkeypatch, moment
):
    """Two events a save: just before it, and just after."""
    events, save = 0, LifelongStore.save

    def event():
        nonlocal events
        events += 1
        if events == moment:
            raise Killed

    def watched(store, name, saved):
        event()
        save(store, name, saved)
        event()

    with monkeypatch.context() as patch:
        patch.setattr(LifelongStore, "save", watched)
        with pytest.raises(Killed):
            bench.run(tmp_path, **SHORT)
    assert bench.run(tmp_path, **SHORT) == short_run


KILLED = """
import sys
from pathlib import Path
import kis_jax as kis
from kis_jax.lifelong import layer as lifelong_layer
from kis_jax.lifelong import targets as lifelong_targets
from tests.lifelong.lifelong_runs import Bench, made_up_targets
lifelong_targets.target_values = made_up_targets
bench = Bench(kis.load("factlm")[0], Path(sys.argv[1]))
bench.run(Path(sys.argv[2]), steps=(1, 4), methods=("sequential", "batch", "finetune"))
"""


@pytest.mark.slow
def test_kill_9_loses_nothing_that_was_saved(bench, short_run, tmp_path):
    command = [sys.executable, "-c", KILLED, str(bench.folder), str(tmp_path)]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": os.getcwd()})
    saved = tmp_path / "sequential.npz"
    deadline = time.monotonic() + 120
    while not saved.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert saved.exists()
    (tmp_path / ".sequential.123.partial.npz").write_bytes(b"half of a state")
    steps = []
    record = bench.run(tmp_path, **SHORT, on_step=lambda name, edits: steps.append((name, edits)))
    assert record == short_run
    assert ("sequential", 1) not in steps or ("sequential", 4) in steps
    assert not list(tmp_path.glob(".*"))


def test_a_method_may_be_added_and_another_run_is_refused(bench, short_run, tmp_path):
    first = bench.run(tmp_path, steps=SHORT["steps"], methods=("sequential",))
    assert first["methods"] == short_run["methods"][:1]
    asked = []
    both = bench.run(tmp_path, **SHORT, on_step=lambda name, edits: asked.append((name, edits)))
    assert both == short_run and ("sequential", 1) not in asked
    with pytest.raises(
        ValueError, match=r"found those of another: facts, ridge, steps differ; choose"
    ):
        bench.run(tmp_path, steps=(1, 3), methods=("sequential",), ridge=0.5)


def test_a_damaged_state_is_named(bench, tmp_path):
    bench.run(tmp_path, steps=(1,), methods=("sequential",))
    path = tmp_path / "sequential.npz"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"sequential\.npz: expected a state .*; delete this file"):
        bench.run(tmp_path, steps=(1,), methods=("sequential",))
    (tmp_path / "identity.json").write_text("{")
    with pytest.raises(ValueError, match=r"identity\.json: expected a state"):
        bench.run(tmp_path, steps=(1,), methods=("sequential",))


def failing(bad):
    def targets(model, tokenizer, facts, **settings):
        found = made_up_targets(model, tokenizer, facts, **settings)
        failures: list[str | None] = [None] * len(facts)
        for row, fact in enumerate(facts):
            if fact.case_id in bad:
                found.keys[row], found.values[row] = np.nan, np.nan
                failures[row] = "its loss ceased to be finite"
        return Found(found.keys, found.values, tuple(failures), found.initial)

    return targets


def test_facts_without_a_target_value_are_left_out(bench, monkeypatch, tmp_path):
    cases = [fact.case_id for fact in read_facts("factlm", 6)]
    monkeypatch.setattr(lifelong_targets, "target_values", failing({cases[1], cases[4]}))
    record = bench.run(tmp_path / "some", steps=(2, 6), methods=("constrained", "batch"))
    assert [fact["failure"] is None for fact in record["facts"]] == [True, False] + [
        True, True, False, True
    ]  # fmt: skip
    for entry in record["methods"]:
        assert [left["fact"] for left in entry["left_out"]] == [1, 4]
        assert entry["left_out"][0]["reason"] == "its loss ceased to be finite"
        assert [point["made"] for point in entry["checkpoints"]] == [1, 4]
        last = entry["checkpoints"][-1]["interference"]
        assert last["edited"]["count"] == 4 and last["text"]["error"] < 1e-4
    monkeypatch.setattr(lifelong_targets, "target_values", failing(set(cases)))
    with pytest.raises(ValueError, match=r"found none; the first: its loss ceased to be finite"):
        bench.run(tmp_path / "none", steps=(6,), methods=("sequential",))


def test_a_key_that_repeats_is_left_out_of_constrained_edits_alone(bench, monkeypatch, tmp_path):
    def repeating(model, tokenizer, facts, **settings):
        found = made_up_targets(model, tokenizer, facts, **settings)
        found.keys[2] = found.keys[0]
        return found

    monkeypatch.setattr(lifelong_targets, "target_values", repeating)
    record = bench.run(tmp_path, steps=(4,), methods=("constrained", "sequential"))
    (left,) = course(record, "constrained")["left_out"]
    assert left["fact"] == 2 and "repeats those of earlier facts" in left["reason"]
    assert (
        "repeats those of earlier facts" in course(record, "constrained")["left_out"][0]["reason"]
    )
    assert course(record, "sequential")["left_out"] == []


@pytest.mark.parametrize("inverse", ["auto", "pseudo"])
def test_a_key_of_neurons_that_never_fire_is_left_out(bench, monkeypatch, tmp_path, inverse):
    def astray(model, tokenizer, facts, **settings):
        found = made_up_targets(model, tokenizer, facts, **settings)
        found.keys[2, 1:] = 0
        return found

    monkeypatch.setattr(lifelong_targets, "target_values", astray)
    total = bench.moments.total.copy()
    total[LAYER, 0] = total[LAYER, :, 0] = 0
    monkeypatch.setattr(bench, "moments", kis.SecondMoment(total, bench.moments.count))
    with pytest.warns(DataNote, match=f"layer {LAYER}: .* singular in one direction"):
        record = bench.run(tmp_path, steps=(4,), methods=("sequential", "batch"), inverse=inverse)
    assert record["dropped_directions"] == 1 and record["settings"]["inverse"] == inverse
    for entry in record["methods"]:
        (left,) = entry["left_out"]
        assert left["fact"] == 2 and "in directions that were dropped" in left["reason"]
        assert entry["checkpoints"][-1]["interference"]["text"]["error"] < 1e-4
    other = "pseudo" if inverse == "auto" else "auto"
    with pytest.raises(ValueError, match="those of another: inverse differ"):
        bench.run(tmp_path, steps=(4,), methods=("sequential",), inverse=other)


def test_a_model_beyond_float32_is_recorded_as_collapsed(bench, monkeypatch, tmp_path):
    def huge(model, tokenizer, facts, **settings):
        found = made_up_targets(model, tokenizer, facts, **settings)
        found.values[1] *= 3e38 / np.abs(found.values[1]).max()
        found.keys[1] *= 1e-3
        return found

    monkeypatch.setattr(lifelong_targets, "target_values", huge)
    record = bench.run(tmp_path, steps=(1, 2), methods=("sequential",))
    (entry,) = record["methods"]
    assert entry["checkpoints"][-1]["perplexity"] is None
    assert entry["checkpoints"][-1]["metrics"]["efficacy"]["mean"] is None
    assert entry["collapse"]["edits"] == 2
    json.dumps(record, allow_nan=False)


def test_probes_are_recorded_at_every_checkpoint(bench, tmp_path):
    def probe(model):
        return {"norm": float(np.linalg.norm(memory_kernel(model, LAYER))), "nothing": np.nan}

    record = bench.run(tmp_path, steps=(1, 2), methods=("sequential",), probe=probe)
    told = [point["probes"] for point in record["methods"][0]["checkpoints"]]
    assert record["unedited"]["probes"].keys() == {"norm", "nothing"}
    assert told[0]["norm"] != record["unedited"]["probes"]["norm"] != told[1]["norm"]
    assert told[0]["nothing"] is None


def test_the_model_given_stays_as_it_is(bench, long_run):
    fresh, _ = kis.load("factlm")
    for ours, theirs in zip(jax.tree.leaves(bench.model), jax.tree.leaves(fresh), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_held_out_text_follows_what_the_second_moment_counts():
    from kis_jax import factlm

    lines = factlm.corpus_path().read_text().splitlines()
    inputs = open_lifelong(request(steps=(1,), num_documents=None, num_held_out=20))
    assert inputs.scan.corpus.num_documents == len(lines) - 20 and inputs.text == lines[-20:]
    inputs = open_lifelong(request(steps=(1,), num_documents=7, num_held_out=3))
    assert inputs.text == lines[7:10]
    inputs = open_lifelong(request(steps=(1,), held_out="factlm", num_held_out=3))
    assert inputs.text == lines[:3]


@pytest.mark.parametrize("position", ["subject_last", "last"])
def test_no_bystander_has_the_key_of_an_edited_fact(tmp_path, position):
    """Two prompts that agree up to the token of the edit have one key, whatever they ask."""
    prompts = ["{} speaks", "{} was born in", "The mother tongue of {} is"]
    records = [
        {"case_id": i, "requested_rewrite": {"prompt": prompt, "subject": "Vera Holm",
         "target_new": {"str": f"New{i}"}, "target_true": {"str": "Old"}}}
        for i, prompt in enumerate(prompts)
    ]  # fmt: skip
    (tmp_path / "facts.json").write_text(json.dumps(records))
    asked = request(steps=(1,), changes=(f"target.position={position}",))
    asked = dataclasses.replace(asked, facts=str(tmp_path / "facts.json"))
    inputs = open_lifelong(asked)
    prompts = tokenize_facts(
        inputs.scan.facts, inputs.scan.tokenizer, context_length=64, position=position
    )
    first = {"subject_last": 2, "last": 1}[position]  # "Vera Holm" begins both of the first two
    assert inputs.others == prompts[first:]


def test_prompts_about_edited_neighbors_are_not_scored(bench, tmp_path):
    """Not even before the neighbor's turn: all checkpoints ask the same."""
    facts = read_facts("factlm", 3)
    around = [[facts[1].text], [facts[0].text, facts[2].text], []]
    records = [
        {"case_id": fact.case_id, "neighborhood_prompts": prompts,
         "requested_rewrite": {"prompt": fact.prompt, "subject": fact.subject,
         "target_new": {"str": fact.target_new}, "target_true": {"str": fact.target_true}}}
        for fact, prompts in zip(facts, around, strict=True)
    ]  # fmt: skip
    (tmp_path / "facts.json").write_text(json.dumps(records))
    asked = request(steps=(1, 2), methods=("sequential",))
    inputs = open_lifelong(dataclasses.replace(asked, facts=str(tmp_path / "facts.json")))
    assert [fact.neighborhood_prompts for fact in inputs.scored] == [(), (facts[2].text,)]
    points = bench.run(tmp_path / "run", inputs=inputs)["methods"][0]["checkpoints"]
    assert [point["metrics"]["neighborhood"]["count"] for point in points] == [0, 1]
    assert points[0]["unedited"]["neighborhood"] is None
    assert points[1]["unedited"]["neighborhood"] in (0, 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": ()}, "steps: expected rising numbers"),
        ({"steps": (5, 2)}, "steps: expected rising numbers"),
        ({"steps": (0, 2)}, "steps: expected rising numbers"),
        ({"steps": (5000,)}, "steps: expected at most 1022 edits"),
        ({"steps": (2,), "layer": 6}, "layers: expected all, a list"),
        ({"steps": (2,), "num_others": -1}, "num_others: expected a number of at least 0"),
        ({"steps": (2,), "most_evaluated": 0}, "most_evaluated: expected a number of at least 1"),
        ({"steps": (2,), "methods": ()}, "methods: expected some of"),
        ({"steps": (2,), "num_documents": 3390}, "corpus: expected documents after the first 3390"),
        ({"steps": (2,), "ridge": -1.0}, "ridge: expected a finite number"),
    ],
)
def test_what_makes_no_sense_is_refused_before_any_work(changes, message):
    with pytest.raises(ValueError, match=message):
        open_lifelong(request(**changes))


def test_contradictory_facts_are_named(tmp_path):
    records = [
        {"case_id": i, "requested_rewrite": {"prompt": "{} speaks", "subject": "Vera Holm",
         "target_new": {"str": target}, "target_true": {"str": "Old"}}}
        for i, target in enumerate(("Orvish", "Aldric"))
    ]  # fmt: skip
    (tmp_path / "facts.json").write_text(json.dumps(records))
    asked = dataclasses.replace(request(steps=(2,)), facts=str(tmp_path / "facts.json"))
    with pytest.raises(
        ValueError, match=r"fact 1 \('Vera Holm speaks': 'Aldric'\) contradicts fact 0"
    ):
        open_lifelong(asked)


def test_lists_of_steps_and_methods():
    assert parse_steps("5,1,5") == (1, 5)
    assert parse_methods("all") == METHODS
    assert parse_methods("rome, batch,rome") == ("rome", "batch")
    with pytest.raises(ValueError, match="steps: expected numbers of edits such as"):
        parse_steps("1,two")
    with pytest.raises(ValueError, match="method: expected one of rome, .*'magic'"):
        parse_methods("sequential,magic")
