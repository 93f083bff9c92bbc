"""ROME, each target value found on the model that the edits before have left."""

import dataclasses

import numpy as np
import pytest

from kis_jax.core.geometry.second_moment import SecondMoment
from kis_jax.data.facts import Fact, read_facts
from kis_jax.edit.methods import make_edits
from kis_jax.models.memory import memory_kernel, with_memory
from kis_jax.passes.targets.settings import edit_settings
from kis_jax.passes.targets.values import target_values
from tests import references

LAYER, N = 4, 3
PREFIXES = ("", "I was there", "Therefore it is so")


@pytest.mark.parametrize("original_keys", [False, True])
def test_is_a_loop_of_searches_and_rank_one_edits_on_the_model(embedded, rng, original_keys):
    model, tokenizer = embedded
    d, layers = model.config.mlp_width, model.config.num_layers
    c = references.spd(rng, d, 1.5)
    moments = SecondMoment(np.stack([c] * layers), np.ones(layers, int))
    settings = edit_settings(model.config)
    searched = dataclasses.replace(settings.target, steps=8)
    facts: list[Fact] = read_facts("factlm", N)
    through = []
    made = make_edits(
        model, tokenizer, facts, moments, method="rome", layers=[LAYER], prefixes=PREFIXES,
        settings=dataclasses.replace(settings, target=searched), original_keys=original_keys,
        on_fact=through.append,
    )  # fmt: skip
    looped, kernel, found = model, np.asarray(memory_kernel(model, LAYER), np.float64), []
    for fact in facts:
        asked = target_values(
            looped, tokenizer, [fact], layer=LAYER, settings=searched, prefixes=PREFIXES
        )
        direction = np.linalg.inv(c) @ asked.keys[0]
        key = (asked.prompt_keys if original_keys else asked.keys)[0].astype(np.float64)
        kernel = kernel + np.outer(direction, asked.values[0] - key @ kernel) / (key @ direction)
        looped = with_memory(looped, {LAYER: kernel})
        found.append(asked.losses[0])
    change = kernel - np.asarray(memory_kernel(model, LAYER), np.float64)
    delta = made.ledger.edits[LAYER].delta
    np.testing.assert_allclose(delta, change, rtol=1e-3, atol=1e-4 * np.abs(change).max())
    losses = [outcome.search.loss for outcome in made.outcomes]
    np.testing.assert_allclose(losses, found, rtol=1e-4)
    assert through == [1, 2, 3]
    # Found on the unedited model, the later values would be others.
    fixed = target_values(
        model, tokenizer, facts, layer=LAYER, settings=searched, prefixes=PREFIXES
    )
    assert abs(fixed.losses[-1] - found[-1]) > 1e-3 * found[-1]
