"""Gram and Schmidt's process, for rows that may depend on one another."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike, DTypeLike

from kis_jax.core.products import matmul
from kis_jax.core.triangular import solve_columns


def orthonormal(rows: Array, tolerance: ArrayLike) -> tuple[Array, Array]:
    """Rows made orthonormal in their order, and what the squares of their lengths were by then.

    Where a square is not above `tolerance` the row becomes zeros, and later ones ignore it. This
    is Gram and Schmidt's process on the Gram matrix, a column of its Cholesky factor at a time.
    """
    factor, squares = greedy_factor(matmul(rows, rows.T), tolerance)
    solved = solve_columns(factor, rows)
    return jnp.where((squares > tolerance)[:, None], solved, 0), squares


def greedy_factor(gram: Array, tolerance: ArrayLike) -> tuple[Array, Array]:
    """Cholesky's factor of a Gram matrix whose rows may depend on one another.

    Where the square that is left to a row is not above `tolerance`, the row is as if it were not
    there: its column of the factor is that of the identity. Gives the factor and the squares.
    """
    index = jnp.arange(len(gram))

    def step(rest: Array, i: Array) -> tuple[Array, tuple[Array, Array]]:
        square = rest[i, i]
        kept = square > tolerance
        column = jnp.where(kept & (index >= i), rest[:, i], 0)
        column = column * jax.lax.rsqrt(jnp.where(kept, square, 1))
        return rest - jnp.outer(column, column), (column, square)

    _, (columns, squares) = jax.lax.scan(step, gram, index)
    kept = squares > tolerance
    return columns.T + jnp.diag(jnp.where(kept, 0, jnp.ones((), gram.dtype))), squares


def own_share(dtype: DTypeLike, tolerance: ArrayLike | None) -> Array:
    """The least share of a key's squared length to itself; None is the root of epsilon."""
    chosen = jnp.finfo(dtype).eps ** 0.5 if tolerance is None else tolerance
    return jnp.asarray(chosen, dtype)
