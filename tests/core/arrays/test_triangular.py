"""Triangular systems solved by products of matrices, against substitution in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import solve_triangular

from kis_jax.core.arrays import triangular
from kis_jax.core.arrays.triangular import solve_rows, triangular_inverse


@pytest.fixture(autouse=True)
def few_are_many(monkeypatch):
    """Small problems take the way of large ones."""
    monkeypatch.setattr(triangular, "_MANY", 1)
    monkeypatch.setattr(triangular, "_BLOCK", 64)


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


# A leaf of substitution and less; one more; leaves that do not fill up a power of two.
@pytest.mark.parametrize("d", [1, 16, 17, 100])
def test_inverse_is_that_of_substitution_and_reads_one_triangle(d, rng):
    upper = factor_of_condition(d, 1e3, rng).astype(np.float32)
    elsewhere = np.tril(rng.normal(size=(d, d)), -1).astype(np.float32)
    exact = solve_triangular(upper.astype(float), np.eye(d))
    found = triangular_inverse(jnp.asarray(upper + elsewhere))
    by_substitution = solve_triangular(upper, np.eye(d, dtype=np.float32))
    error, allowed = (np.linalg.norm(x - exact) for x in (found, by_substitution))
    assert error <= 3 * allowed + 1e-7
    assert not np.tril(found, -1).any()


def test_inverse_under_vmap_and_its_gradient(rng, x64):
    stack = jnp.asarray([factor_of_condition(40, 10, rng) for _ in range(2)])
    found = jax.jit(jax.vmap(triangular_inverse))(stack)
    np.testing.assert_allclose(found @ stack, np.broadcast_to(np.eye(40), (2, 40, 40)), atol=1e-12)
    gradient = jax.grad(lambda upper: triangular_inverse(upper).sum())(stack[0])
    outer = -np.outer(found[0].sum(0), found[0].sum(1))  # d sum(X) = -sum(X dU X)
    np.testing.assert_allclose(gradient, np.triu(outer), atol=1e-10)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("d", [1, 128, 300])
@pytest.mark.parametrize("transpose", [False, True])
def test_a_single_row_is_solved_in_strips(d, transpose, rng):
    upper = np.triu(rng.normal(size=(d, d))) / np.sqrt(d) + 2 * np.eye(d)
    row = rng.normal(size=(1, d))
    found = solve_rows(jnp.asarray(upper), jnp.asarray(row), transpose=transpose)
    expected = np.linalg.solve(upper if transpose else upper.T, row[0])
    np.testing.assert_allclose(found[0], expected, rtol=1e-9, atol=1e-12)
