"""One key for two: against the constrained solve of both rows, in whitened coordinates."""

import jax.numpy as jnp
import numpy as np
import pytest

from kis_jax.core.editing.reach import reaching
from kis_jax.core.geometry.spaces import Identity
from kis_jax.core.geometry.whitening import whitener
from tests import references

N, D = 5, 8


@pytest.fixture
def problem(rng, x64):
    c = references.spd(rng, D, 1.5)
    keys = rng.normal(size=(N, D))
    others = keys + rng.normal(size=(N, D))
    return c, keys, others


def directions(found, space):
    solved = np.asarray(space.solve(found))
    return solved / np.sum(found * solved, axis=1, keepdims=True)


def test_both_keys_are_reached_in_full_without_slack(problem):
    c, keys, others = problem
    space = whitener(jnp.asarray(c))
    along = directions(np.asarray(reaching(keys, others, space, slack=0.0)), space)
    np.testing.assert_allclose(np.sum(along * keys, axis=1), 1, rtol=1e-9)
    np.testing.assert_allclose(np.sum(along * others, axis=1), 1, rtol=1e-9)
    for row in range(N):  # the cheapest of all that reach both
        pair = np.stack([keys[row], others[row]])
        inverse = np.linalg.inv(c)
        both = inverse @ pair.T @ np.linalg.solve(pair @ inverse @ pair.T, np.ones(2))
        np.testing.assert_allclose(along[row], both, rtol=1e-8, atol=1e-10)


def test_with_slack_no_direction_is_better(problem, rng):
    c, keys, others = problem
    space, slack = whitener(jnp.asarray(c)), 0.1
    found = directions(np.asarray(reaching(keys, others, space, slack=slack)), space)
    np.testing.assert_allclose(np.sum(found * keys, axis=1), 1, rtol=1e-9)
    length = np.sum(others * np.asarray(space.solve(others)), axis=1)

    def cost(along):
        missed = 1 - np.sum(along * others, axis=1)
        return np.sum(along * (along @ c), axis=1) + missed**2 / (slack * length)

    for _ in range(20):
        other = rng.normal(size=(N, D)) * 1e-2
        other -= found * np.sum(other * keys, axis=1, keepdims=True)  # still reaches the first
        assert np.all(cost(found + other) > cost(found) - 1e-12)


def test_one_key_is_itself_and_a_key_of_zeros_stays(rng):
    keys = rng.normal(size=(2, D)).astype(np.float32)
    found = reaching(keys, keys, Identity(D))
    np.testing.assert_allclose(found, keys, rtol=1e-5)
    nothing = np.zeros((1, D), np.float32)
    assert not np.any(reaching(nothing, keys[:1], Identity(D), slack=0.1) * 0)
    assert np.isfinite(reaching(nothing, keys[:1], Identity(D))).all()
