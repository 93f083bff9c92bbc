"""Triangular solves by products of matrices, against substitution in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import solve_triangular

from kis_jax.core import products
from kis_jax.core.products import solve_rows


@pytest.fixture(autouse=True)
def few_are_many(monkeypatch):
    """Small problems take the way of large ones."""
    monkeypatch.setattr(products, "_MANY", 1)
    monkeypatch.setattr(products, "_BLOCK", 64)


def factor_of_condition(d, condition, rng):
    """The upper Cholesky factor of a matrix with this condition number."""
    basis, _ = np.linalg.qr(rng.normal(size=(d, d)))
    matrix = (basis * np.geomspace(1, 1 / condition, d)) @ basis.T
    return np.linalg.cholesky(matrix).T


# One block; one and a little more; four, the last of them short.
@pytest.mark.parametrize("d", [40, 65, 230])
@pytest.mark.parametrize("transpose", [False, True])
def test_products_solve_as_exactly_as_substitution(d, transpose, rng):
    upper = factor_of_condition(d, 1e4, rng).astype(np.float32)
    rows = rng.normal(size=(30, d)).astype(np.float32)
    trans = int(not transpose)
    exact = solve_triangular(upper.astype(float), rows.T.astype(float), trans=trans).T

    def error(found):
        return np.linalg.norm(found - exact) / np.linalg.norm(exact)

    by_products = error(solve_rows(jnp.asarray(upper), jnp.asarray(rows), transpose=transpose))
    by_substitution = error(solve_triangular(upper, rows.T, trans=trans).T)
    assert by_products < 3 * by_substitution
    assert by_products < 1e-4


def test_gradient_of_a_solve_by_products(rng, x64):
    upper = jnp.asarray(factor_of_condition(150, 10, rng))
    rows = jnp.asarray(rng.normal(size=(3, 150)))
    found = jax.grad(lambda rows: solve_rows(upper, rows)[:, -1].sum())(rows)
    exact = solve_triangular(np.asarray(upper), np.eye(150)[-1])  # the last column of the inverse
    np.testing.assert_allclose(found, np.broadcast_to(exact, found.shape), atol=1e-12)
