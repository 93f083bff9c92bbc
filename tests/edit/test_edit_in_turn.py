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


def reaching_both(bare, after, inverse, slack=0.1):
    """A direction u with u . bare = 1 and u . after near 1, by a solve of both, and a key of it."""
    keys = np.stack([bare, after])
    g = keys @ inverse @ keys.T
    # u = C^-1 keys' a: minimise a'ga + (1 - (ga)_2)^2 / (slack g_22), with (ga)_1 = 1.
    weight = 1 / (slack * g[1, 1])
    hessian = np.block([
        [2 * g + 2 * weight * np.outer(g[1], g[1]), g[:1].T],
        [g[:1], np.zeros((1, 1))],
    ])  # fmt: skip
    a = np.linalg.solve(hessian, np.concatenate([2 * weight * g[1], [1.0]]))[:2]
    u = inverse @ keys.T @ a
    return u, bare


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
        shift = (asked.values - asked.initial)[0].astype(np.float64)
        bare, after = (each[0].astype(np.float64) for each in (asked.prompt_keys, asked.keys))
        along = np.linalg.inv(c) @ after
        key = bare
        if not original_keys:
            along, key = reaching_both(bare, after, np.linalg.inv(c))
        kernel = kernel + np.outer(along, shift) / (key @ along)
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
