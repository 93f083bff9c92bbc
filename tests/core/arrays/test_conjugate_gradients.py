import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kis_jax as kis
from tests import references


def case(rng, d=60, log10_condition=4.0):
    units = np.logspace(-3, 3, d)
    c = np.outer(units, units) * references.spd(rng, d, log10_condition)
    return jnp.asarray(c), jnp.asarray(rng.normal(size=(7, d)) * units)


@pytest.mark.usefixtures("x64")
def test_equals_the_factored_solve(rng):
    c, keys = case(rng)
    solved = kis.solve_iteratively(lambda x: x @ c, keys, jnp.diagonal(c), tolerance=1e-12)
    expected = keys @ np.linalg.inv(c)
    error = np.linalg.norm(solved.rows - expected) / np.linalg.norm(expected)
    assert error < 1e-8 and solved.steps < 600
    left = np.linalg.norm((keys - solved.rows @ c) / jnp.sqrt(jnp.diagonal(c)), axis=1)
    right = np.linalg.norm(keys / jnp.sqrt(jnp.diagonal(c)), axis=1)
    assert (left / right < 1e-10).all() and (solved.residual <= 1e-12).all()


@pytest.mark.parametrize(("log10_condition", "tolerance"), [(2.0, 1e-5), (4.0, 1e-3)])
def test_the_residual_it_reports_is_the_true_one_in_float32(rng, log10_condition, tolerance):
    c = references.spd(rng, 150, log10_condition)
    c = jnp.asarray(c / np.sqrt(np.outer(np.diag(c), np.diag(c))), jnp.float32)
    keys = jnp.asarray(rng.normal(size=(3, 150)), jnp.float32)
    solved = kis.solve_iteratively(lambda x: x @ c, keys, jnp.diagonal(c), tolerance=tolerance)
    left = np.asarray(keys, np.float64) - np.asarray(solved.rows, np.float64) @ c
    true = np.linalg.norm(left, axis=1) / np.linalg.norm(keys, axis=1)
    assert (true < 1.5 * tolerance).all()
    np.testing.assert_allclose(solved.residual, true, rtol=0.3)
    with pytest.raises(ValueError, match="tolerance: expected residuals of 1e-12 within 10000"):
        kis.solve_iteratively(lambda x: x @ c, keys, jnp.diagonal(c), tolerance=1e-12)


@pytest.mark.usefixtures("x64")
def test_edits_need_no_factor(rng):
    """From the rows to P, to residuals, to an edit."""
    c, keys = case(rng)
    kernel = jnp.asarray(rng.normal(size=(60, 3)))
    values = jnp.asarray(rng.normal(size=(7, 3)))
    rows = kis.solve_iteratively(lambda x: x @ c, keys, jnp.diagonal(c), tolerance=1e-12).rows
    gram = keys @ rows.T
    own = jnp.diagonal(gram)[:, None]
    requested = values - keys @ kernel
    edit = kis.Edit(rows / own, kis.forecast(gram / own, requested).residuals, requested)
    expected = kis.edit_sequential(kernel, keys, values, kis.whitener(c))
    probes = keys[::-1] + 1
    np.testing.assert_allclose(
        kis.interference(edit, probes), kis.interference(expected, probes), rtol=1e-6
    )


@pytest.mark.usefixtures("x64")
def test_needs_no_matrix(rng):
    """C only as stored keys, more of them than dimensions; and a row of zeros among the keys."""
    stored = jnp.asarray(rng.normal(size=(200, 30)))
    keys = jnp.asarray(rng.normal(size=(3, 30))).at[1].set(0)
    diagonal = jnp.mean(stored**2, axis=0)
    solve = jax.jit(
        lambda keys: kis.solve_iteratively(
            lambda x: (x @ stored.T) @ stored / 200, keys, diagonal, tolerance=1e-12
        )
    )
    expected = keys @ np.linalg.inv(stored.T @ stored / 200)
    np.testing.assert_allclose(solve(keys).rows, expected, atol=1e-9)


def test_says_when_it_does_not_converge(rng):
    c, keys = case(rng)
    c, keys = c.astype(jnp.float32), keys.astype(jnp.float32)
    with pytest.raises(ValueError, match="tolerance: expected residuals of 1e-06 within 3 steps"):
        kis.solve_iteratively(lambda x: x @ c, keys, jnp.diagonal(c), max_steps=3)
    with pytest.raises(ValueError, match="diagonal: expected shape"):
        kis.solve_iteratively(lambda x: x @ c, keys, jnp.ones(3))
