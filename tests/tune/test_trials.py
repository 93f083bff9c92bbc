"""Trials of edits that are not made, against the edited model itself."""

import numpy as np
import pytest

from kis_jax.core.editing.ledger import Edit
from kis_jax.data.facts import read_facts
from kis_jax.models.memory import edited
from kis_jax.passes.scores.measures import MEASURES, evaluate
from kis_jax.tune import trials as trials_module
from kis_jax.tune.pilot import spread
from kis_jax.tune.run import parse_budget
from kis_jax.tune.trials import Trials

LAYER, N = 3, 3


def test_an_edit_alone_and_together_is_what_the_edited_model_says(embedded, rng):
    model, tokenizer = embedded
    facts = read_facts("factlm", N)
    along = rng.normal(size=(N, model.config.mlp_width)) * 0.05
    residuals = rng.normal(size=(N, model.config.width))
    trials = Trials(model, tokenizer, facts, LAYER)
    alone, _ = trials.alone(along, residuals)
    for row, fact in enumerate(facts):
        made = edited(model, {LAYER: Edit(along[row : row + 1], residuals[row : row + 1])})
        single = evaluate(made, tokenizer, [fact])
        for name in MEASURES:
            np.testing.assert_allclose(
                getattr(alone, name)[row], getattr(single, name)[0], rtol=1e-3, atol=1e-4
            )
    together, _ = trials.together(along.T @ residuals)
    whole = evaluate(edited(model, {LAYER: Edit(along, residuals)}), tokenizer, facts)
    for name in MEASURES:
        np.testing.assert_allclose(
            getattr(together, name), getattr(whole, name), rtol=1e-3, atol=1e-4
        )


def test_layers_share_programs(embedded):
    """Another layer compiles nothing, and is asked the same of an unedited model."""
    model, tokenizer = embedded
    facts = read_facts("factlm", N)
    nothing = np.zeros((model.config.mlp_width, model.config.width))
    before, _ = Trials(model, tokenizer, facts, 0).together(nothing)
    compiled = trials_module._together._cache_size(), trials_module._up_to._cache_size()
    for layer in (2, 5):
        found, _ = Trials(model, tokenizer, facts, layer).together(nothing)
        for name in MEASURES:
            np.testing.assert_allclose(
                getattr(found, name), getattr(before, name), rtol=1e-3, atol=1e-4
            )
    assert (trials_module._together._cache_size(), trials_module._up_to._cache_size()) == compiled


def test_candidates_are_spread_over_depth():
    costs = [(layer, 10.0 - layer) for layer in range(9)]
    assert spread(costs, 3) == [8, 5, 2]
    assert spread(costs[:2], 5) == [1, 0]


@pytest.mark.parametrize("text", ["", "0", "-3m", "ten", "5 days"])
def test_budgets_that_are_none(text):
    with pytest.raises(ValueError, match="budget: expected a time such as 10m"):
        parse_budget(text)
