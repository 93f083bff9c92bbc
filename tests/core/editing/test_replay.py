"""Edits from the ledger alone, against the closed forms computed anew from C and the kernel."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kis_jax as kis
from kis_jax.core.editing.replay import Asked, independent, replay
from tests import references
from tests.references import TOLERANCE

N, D, M = 7, 20, 5
ORDERS = ([0, 1, 2, 3, 4, 5, 6], [0, 1, 2], [6, 2, 4], [3])


@pytest.fixture
def problem(rng, x64):
    kernel, keys = rng.normal(size=(D, M)), rng.normal(size=(N, D))
    values, c = rng.normal(size=(N, M)), references.spd(rng, D)
    solved = np.linalg.solve(c, keys.T).T
    return kernel, keys, values, c, Asked(keys, solved, values - keys @ kernel)


def deltas(asked, order, rule, **options):
    return np.asarray(replay(asked.take(np.array(order)), rule, **options).delta)


@pytest.mark.parametrize("order", ORDERS)
def test_sequential_is_the_loop_over_these_facts(problem, order):
    kernel, keys, values, c, asked = problem
    expected = references.sequential_edits(kernel, keys[order], values[order], c)[-1] - kernel
    np.testing.assert_allclose(
        deltas(asked, order, "sequential"), expected, rtol=TOLERANCE["float64"], atol=1e-9
    )


@pytest.mark.parametrize("order", ORDERS)
def test_constrained_fits_these_facts_at_least_cost(problem, order):
    kernel, keys, values, c, asked = problem
    expected = references.constrained_edit(kernel, keys[order], values[order], c) - kernel
    np.testing.assert_allclose(
        deltas(asked, order, "constrained"), expected, rtol=TOLERANCE["float64"], atol=1e-9
    )
    edit = replay(asked.take(np.array(order)), "constrained")
    whole = kis.edit_constrained(kernel, keys[order], values[order], kis.whitener(jnp.asarray(c)))
    for t in range(1, len(order)):
        np.testing.assert_allclose(edit[:t].delta, whole[:t].delta, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("order", ORDERS)
def test_batch_is_least_squares_on_these_facts(problem, order):
    kernel, keys, values, c, asked = problem
    expected = references.batch_edit(kernel, keys[order], values[order], 3.5 * c) - kernel
    np.testing.assert_allclose(
        deltas(asked, order, "batch", weight=3.5), expected, rtol=TOLERANCE["float64"], atol=1e-9
    )


@pytest.mark.parametrize("order", ORDERS)
def test_null_space_writes_only_there(problem, rng, order):
    kernel, keys, values, _, asked = problem
    basis = np.linalg.qr(rng.normal(size=(D, 9)))[0]
    projector = basis @ basis.T
    asked = Asked(keys, keys @ projector, asked.initial_residuals)
    inside = keys[order] @ basis  # least squares in the coordinates of the subspace
    part = references.batch_edit(
        np.zeros((9, M)), inside, asked.initial_residuals[order], 0.5 * np.eye(9)
    )
    np.testing.assert_allclose(
        deltas(asked, order, "null_space", weight=0.5),
        basis @ part,
        rtol=TOLERANCE["float64"],
        atol=1e-9,
    )


def test_a_key_outside_of_the_null_space_moves_nothing(rng, x64):
    keys = np.eye(4)[:2]
    asked = Asked(keys, keys * [[0.0], [1.0]], rng.normal(size=(2, 3)))
    edit = replay(asked, "null_space", weight=1e-3)
    assert np.all(np.isfinite(edit.delta)) and not np.any(edit.delta[0])
    np.testing.assert_allclose(edit.delta[1], asked.initial_residuals[1] / 1.001)


def test_keys_that_read_need_not_be_keys_that_solve(problem, rng):
    """The original ROME: directions from one key, residual and denominator from another."""
    kernel, keys, values, c, _ = problem
    others = keys + 0.1 * rng.normal(size=keys.shape)
    solved = np.linalg.solve(c, others.T).T
    expected = kernel.copy()
    for key, direction, value in zip(keys, solved, values, strict=True):
        expected += np.outer(direction, value - key @ expected) / (key @ direction)
    edit = replay(Asked(keys, solved, values - keys @ kernel), "sequential")
    np.testing.assert_allclose(edit.apply(kernel), expected, rtol=1e-9, atol=1e-9)


def test_under_jit(problem):
    asked = jax.tree.map(jnp.asarray, problem[-1])
    for rule, weight in (("sequential", None), ("constrained", None), ("batch", 2.0)):
        compiled = jax.jit(
            lambda asked, rule=rule, weight=weight: replay(asked, rule, weight=weight)
        )
        np.testing.assert_allclose(
            compiled(asked).delta, replay(asked, rule, weight=weight).delta, rtol=1e-9, atol=1e-12
        )


def test_independent_finds_the_keys_that_repeat_others(problem):
    asked = problem[-1]
    doubled = asked.take(np.array([0, 1, 0, 2, 3, 3, 4]))
    mixed = doubled.keys.copy()
    mixed[6] = mixed[0] - 2 * mixed[3]
    c = problem[3]
    asked = Asked(mixed, np.linalg.solve(c, mixed.T).T, doubled.initial_residuals)
    expected = [True, True, False, True, True, False, False]
    np.testing.assert_array_equal(independent(asked), expected)
    kept = replay(asked.take(np.flatnonzero(expected)), "constrained")
    assert np.isfinite(kept.delta).all()


def test_what_cannot_be_replayed(problem):
    asked = problem[-1]
    with pytest.raises(ValueError, match="linearly independent keys, found that row 2"):
        replay(asked.take(np.array([0, 1, 0])), "constrained")
    with pytest.raises(ValueError, match="weight: expected a positive one for batch"):
        replay(asked, "batch")
    with pytest.raises(ValueError, match="weight: expected none for sequential"):
        replay(asked, "sequential", weight=1.0)
    with pytest.raises(ValueError, match="weight: expected a positive number"):
        replay(asked, "batch", weight=-1.0)
    with pytest.raises(ValueError, match="rule: expected one of sequential"):
        replay(asked, "finetune")
    with pytest.raises(ValueError, match=r"k . s = 0 in row 1"):
        replay(Asked(np.eye(3), np.diag([1.0, 0, 1]), np.eye(3)), "sequential")
    with pytest.raises(ValueError, match="of one shape"):
        replay(Asked(np.eye(3), np.eye(4), np.eye(3)), "sequential")
    with pytest.raises(ValueError, match="a residual for each key"):
        replay(Asked(np.eye(3), np.eye(3), np.eye(4)), "sequential")
