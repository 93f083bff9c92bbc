"""Triangular solves for many rows, which go by products, against substitution in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import solve_triangular

from kis_jax.core.products import solve_rows


def factor_of_condition(d, condition, rng):
    """The upper Cholesky factor of a matrix with this condition number."""
    basis, _ = np.linalg.qr(rng.normal(size=(d, d)))
    matrix = (basis * np.geomspace(1, 1 / condition, d)) @ basis.T
    return np.linalg.cholesky(matrix).T


# One block; one and a little more; three, the last of them short.
@pytest.mark.parametrize("d", [300, 513, 1300])
@pytest.mark.parametrize("transpose", [False, True])
def test_many_rows_are_solved_as_exactly_as_few(d, transpose, rng):
    upper = factor_of_condition(d, 1e4, rng).astype(np.float32)
    rows = rng.normal(size=(1024, d)).astype(np.float32)
    wide = upper.astype(np.float64)
    exact = solve_triangular(wide, rows.T.astype(np.float64), trans=int(not transpose)).T

    def error(found):
        return np.linalg.norm(found - exact) / np.linalg.norm(exact)

    solve = jax.jit(solve_rows, static_argnames="transpose")
    by_products = error(solve(jnp.asarray(upper), jnp.asarray(rows), transpose=transpose))
    by_substitution = error(solve_triangular(upper, rows.T, trans=int(not transpose)).T)
    assert by_products < 3 * by_substitution
    assert by_products < 1e-4


def test_gradient_of_a_solve_for_many_rows(rng, x64):
    upper = jnp.asarray(factor_of_condition(600, 10, rng))
    rows = jnp.asarray(rng.normal(size=(1024, 600)))
    found = jax.grad(lambda rows: solve_rows(upper, rows)[:, -1].sum())(rows)
    exact = solve_triangular(np.asarray(upper), np.eye(600)[-1])  # the last column of the inverse
    np.testing.assert_allclose(found, np.broadcast_to(exact, found.shape), atol=1e-12)
