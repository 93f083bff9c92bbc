"""MEMIT over several layers, against a loop of fact by fact passes and d x d solves."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kis_jax.checkpoints.loading import load_model
from kis_jax.core.geometry.second_moment import SecondMoment
from kis_jax.data.facts import read_facts
from kis_jax.edit import many_layers as edit_layers
from kis_jax.edit.methods import make_edits
from kis_jax.models.memory import memory_kernel, with_memory
from kis_jax.passes.targets.settings import edit_settings
from kis_jax.passes.targets.values import TargetValues
from tests import golden, references

LAYERS, N, WEIGHT = (1, 2, 4), 3, 30.0
PREFIXES = ("", "I was there", "Therefore it is so")


@pytest.fixture
def problem(embedded, rng):
    model, _ = embedded
    d, m, layers = model.config.mlp_width, model.config.width, model.config.num_layers
    c = np.stack([np.eye(d)] * layers)
    for layer in LAYERS:
        factor = rng.normal(size=(2 * d, d))
        c[layer] = factor.T @ factor / len(factor)
    initial = rng.normal(size=(N, m)).astype(np.float32)
    targets = TargetValues(
        keys=rng.normal(size=(N, d)).astype(np.float32),
        prompt_keys=rng.normal(size=(N, d)).astype(np.float32),
        values=initial + rng.normal(size=(N, m)).astype(np.float32),
        initial=initial,
        losses=np.zeros(N),
        probabilities=np.ones(N),
        steps=np.zeros(N, int),
        failures=(None,) * N,
        left_out=((),) * N,
        layer=LAYERS[-1],
        prefixes=PREFIXES,
        settings=edit_settings(model.config).batch_target,
    )
    settings = dataclasses.replace(edit_settings(model.config), weight=WEIGHT, units="absolute")
    return c, targets, settings


@functools.partial(jax.jit, static_argnames="layer")
def run_one(model, tokens, place, layer):
    """A key of a layer, and the stream after the last of the layers, at one token of one text."""
    mask = jnp.ones(tokens.shape, bool)
    _, keys = model(tokens, tap=lambda keys, _: keys[0, place])
    stream, _ = model.run(model.embed(tokens, mask), mask, layers=range(LAYERS[-1] + 1))
    return keys[layer], stream[0, place]


def observe(model, tokenizer, fact, layer, position):
    """The fact's averaged key and the stream after the last layer, one text at a time."""
    keys, streams = [], []
    for prefix in PREFIXES:
        start = f"{prefix}. {fact.text}" if prefix else fact.text
        # Up to the token whose key stands for the fact, then the last of the text; zeros after it.
        if position == "subject_last":
            start = start[: start.index(fact.subject) + len(fact.subject)]
        tokens = tokenizer(start)["input_ids"]
        padded = jnp.array([tokens + [0] * (32 - len(tokens))])
        key, found = run_one(model, padded, len(tokens) - 1, layer)
        keys.append(key)
        streams.append(found)
    keys = np.asarray(keys, np.float64)
    return 0.5 * keys[0] + 0.5 * keys[1:].mean(axis=0), np.asarray(streams[0], np.float64)


@pytest.mark.parametrize("position", ["subject_last", "last"])
def test_residuals_are_measured_again_after_each_layer(embedded, problem, position):
    model, tokenizer = embedded
    c, targets, settings = problem
    searched = dataclasses.replace(targets.settings, position=position)
    targets = dataclasses.replace(targets, settings=searched)
    facts = read_facts("factlm", N)
    moments = SecondMoment(c, np.ones(len(c), int))
    made = make_edits(
        model, tokenizer, facts, moments, method="batch", layers=LAYERS, settings=settings,
        targets=targets,
    )  # fmt: skip
    looped, goal = model, None
    for i, layer in enumerate(LAYERS):
        keys, stream = zip(
            *(observe(looped, tokenizer, fact, layer, position) for fact in facts), strict=True
        )
        keys, stream = np.stack(keys), np.stack(stream)
        if goal is None:
            goal = stream + targets.values - targets.initial
        kernel = np.asarray(memory_kernel(looped, layer), np.float64)
        values = keys @ kernel + (goal - stream) / (len(LAYERS) - i)
        kernel = references.batch_edit(kernel, keys, values, WEIGHT * c[layer])
        looped = with_memory(looped, {layer: kernel})
    for layer in LAYERS:
        change = np.asarray(memory_kernel(looped, layer) - memory_kernel(model, layer))
        found = np.asarray(memory_kernel(made.model, layer) - memory_kernel(model, layer))
        np.testing.assert_allclose(found, change, rtol=2e-3, atol=1e-3 * np.abs(change).max())
    assert made.ledger.settings["target"]["position"] == position
    assert not made.ledger.exact and sorted(made.ledger.layers) == list(LAYERS)


def test_a_zero_key_in_one_layer_leaves_its_fact_out_of_all(embedded, problem, monkeypatch):
    model, tokenizer = embedded
    c, targets, settings = problem
    facts = read_facts("factlm", N)
    moments = SecondMoment(c, np.ones(len(c), int))
    observe_all = edit_layers._observe

    def with_a_zero(job, model, rewrites, weights, layer, last):
        keys, stream = observe_all(job, model, rewrites, weights, layer, last)
        if layer == LAYERS[1] and len(rewrites) == N:
            keys[1] = 0
        return keys, stream

    def made(facts, targets):
        return make_edits(
            model, tokenizer, facts, moments, method="batch", layers=LAYERS, settings=settings,
            targets=targets,
        )  # fmt: skip

    alone = made([facts[0], facts[2]], targets[[0, 2]])
    monkeypatch.setattr(edit_layers, "_observe", with_a_zero)
    found = made(facts, targets)
    reasons = [outcome.reason for outcome in found.outcomes]
    assert reasons[0] is None and reasons[2] is None
    assert str(reasons[1]).startswith(f"layer {LAYERS[1]}: its key has no share")
    for layer in LAYERS:
        np.testing.assert_array_equal(
            memory_kernel(found.model, layer), memory_kernel(alone.model, layer)
        )


def test_a_norm_after_the_mlp_leaves_one_layer(problem):
    _, targets, settings = problem
    targets = dataclasses.replace(targets, layer=1)
    model = load_model(golden.DIRECTORY / "gemma2")
    moments = SecondMoment(np.ones((model.config.num_layers, 1, 1)), np.ones(2, int))
    with pytest.raises(ValueError, match="expected one for gemma2, which has a norm after its MLP"):
        make_edits(
            model, None, read_facts("factlm", N), moments, method="batch", layers=(0, 1),
            settings=settings, targets=targets,
        )  # fmt: skip
