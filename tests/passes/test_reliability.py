"""How well P is known, against P of far more text; and when a pass ends."""

import math

import numpy as np
import pytest

from kis_jax.passes import reliability
from kis_jax.passes.reliability import Reliability, correlation_with_truth

D, N = 24, 16


def p_of(keys, second_moment):
    solved = np.linalg.solve(second_moment, keys.T)
    gram = keys @ solved
    return (gram / np.diag(gram)[:, None])[~np.eye(len(keys), dtype=bool)]


def measured(rng, target):
    """A watched pass: estimates and true correlations at each look, of two layers."""
    mixing = rng.normal(size=(2, D, D))
    keys = rng.normal(size=(2, N, D))
    truth = [p_of(keys[layer], mixing[layer] @ mixing[layer].T) for layer in range(2)]
    watched = Reliability(keys, (0, 1), target=target)
    total, tokens, looks = np.zeros((2, D, D)), 0, []
    while tokens < 200_000:
        drawn = np.einsum("lij,bj->lbi", mixing, rng.normal(size=(50, D)))
        total, tokens = total + np.einsum("lbi,lbj->lij", drawn, drawn), tokens + 50
        if not watched.due(tokens):
            continue
        known = watched.look(tokens, lambda layer: total[layer] / tokens)  # noqa: B023
        true = [
            np.corrcoef(p_of(keys[layer], total[layer] / tokens), truth[layer])[0, 1]
            for layer in range(2)
        ]
        looks.append((tokens, [watched.estimates[i].correlation for i in range(2)], true))
        if known:
            break
    return watched, looks


def test_the_estimate_is_the_correlation_with_the_truth(rng):
    _, looks = measured(rng, 0.9995)
    compared = [look for look in looks if not math.isnan(look[1][0])]
    assert len(compared) >= 4 and len(looks) - len(compared) == 2, "the first two have no half"
    for _, estimated, true in compared:
        np.testing.assert_allclose(estimated, true, atol=0.03)


@pytest.mark.parametrize("target", [0.95, 0.99])
def test_it_ends_where_the_target_is_reached_at_every_layer(rng, target):
    watched, looks = measured(rng, target)
    assert watched.known and min(looks[-1][1]) >= target
    assert min(looks[-1][2]) > target - 0.01
    assert all(not min(estimated) >= target for _, estimated, _ in looks[:-1])


def test_nothing_is_said_without_an_inverse_or_a_number(rng):
    keys = rng.normal(size=(1, N, D))
    watched = Reliability(keys, (0,), target=0.9)
    thin = rng.normal(size=(D, 3))
    for tokens in (100, 200, 400):
        assert not watched.look(tokens, lambda layer: thin @ thin.T)
    assert math.isnan(watched.estimates[0].correlation)
    assert math.isnan(correlation_with_truth(np.array([1.0, np.nan]), np.ones(2), 2.0))
    assert correlation_with_truth(np.array([1.0, -1.0]), np.array([-1.0, 1.0]), 2.0) == 0.0


def test_it_goes_on_while_kurtosis_leaves_its_interval(rng, monkeypatch):
    apart = rng.normal(size=(D, D))
    keys, c = rng.normal(size=(1, N, D)), apart @ apart.T
    watched = Reliability(keys, (0,), target=0.9)
    assert not watched.look(100, lambda layer: c) and not watched.estimates[0].steady
    assert watched.look(200, lambda layer: c) and watched.estimates[0].steady
    estimate = watched.estimates[0]
    assert estimate.low < estimate.kurtosis < estimate.high
    monkeypatch.setattr(reliability, "_limits", lambda p: (estimate.kurtosis + 1, math.inf))
    assert not watched.look(400, lambda layer: c)
    assert watched.estimates[0].correlation == 1.0 and not watched.estimates[0].steady


@pytest.mark.parametrize("target", [0.0, 1.0, -1.0, float("nan")])
def test_a_target_that_is_no_correlation_is_refused(target):
    with pytest.raises(ValueError, match="reliability: expected a correlation between 0 and 1"):
        Reliability(np.ones((1, 3, 4)), (0,), target=target)
