"""Ridge regression on whitened keys, which is what batches of edits come to."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

from kis_jax.core.products import inner
from kis_jax.core.triangular import solve_columns


def ridge_regression(
    white: Array,
    requested: Array,
    weight: Array,
    earlier: Array | None,
    extended: bool = False,
) -> tuple[Array, Array]:
    """Ridge regression in coordinates where the penalty is `weight` times the squared norm.

    Earlier keys join the penalty: M = (E.T E + w I)^-1, the directions are A = w Z M, and
    (A Z.T + w I) X = R.
    """
    along = white
    if earlier is not None:
        shrunk = _solve_shifted(
            inner(earlier, earlier, extended=extended),
            weight,
            inner(earlier, white, extended=extended),
        )
        along = white - inner(shrunk.T, earlier.T, extended=extended)
    shares = inner(along, white, extended=extended)
    solved = _solve_shifted(shares, weight, requested)
    own = jnp.diagonal(shares)[:, None]
    empty = own <= 0  # a key outside of the space in which the edit may write
    along = jnp.where(empty, 0, along / jnp.where(empty, 1, own))
    return along, solved * own


def _solve_shifted(matrix: Array, shift: Array, right: Array) -> Array:
    """Solves (matrix + shift I) x = right, the matrix symmetric and positive semi-definite."""
    shifted = matrix + shift * jnp.eye(len(matrix), dtype=matrix.dtype)
    factor = jnp.linalg.cholesky(shifted)
    return solve_columns(factor, solve_columns(factor, right), transpose=True)
