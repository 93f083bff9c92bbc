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
    with pytest.raises(ValueError, match="max_steps: expected a residual of 1e-06 within 3 steps"):
        kis.solve_iteratively(lambda x: x @ c, keys, jnp.diagonal(c), max_steps=3)
    with pytest.raises(ValueError, match="diagonal: expected shape"):
        kis.solve_iteratively(lambda x: x @ c, keys, jnp.ones(3))
