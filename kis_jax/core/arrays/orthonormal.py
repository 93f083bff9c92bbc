"""Gram and Schmidt's process, for rows that may depend on one another."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike, DTypeLike

from kis_jax.core.arrays.products import inner
from kis_jax.core.arrays.triangular import solve_columns


def orthonormal(
    rows: Array, tolerance: ArrayLike, duals: Array | None = None, *, extended: bool = False
) -> tuple[Array, Array | None]:
    """Rows made orthonormal in their order; zeros for one that has too little to itself.

    This is Gram and Schmidt's process by Cholesky's factor of the Gram matrix. Where the square of
    what is left of a row is not above `tolerance`, later rows ignore it.

    Args:
      rows: `(n, p)`, of length one at most.
      tolerance: `()`.
      duals: `(n, r)`, rows whose products with `rows` are the inner products; None: the rows
        themselves. They are changed as the rows are.
      extended: whether products are rounded only at their end, for float32.
    """
    gram = inner(rows, rows if duals is None else duals, extended=extended)
    zero = jnp.diagonal(gram) == 0  # a row of zeros is nothing that others could depend on
    gram = gram + jnp.diag(zero.astype(gram.dtype))
    factor, squares = independent_factor(gram, tolerance)
    kept = (squares > tolerance)[:, None]

    def solved(given: Array) -> Array:
        return jnp.where(kept, solve_columns(factor, given), 0)

    return solved(rows), None if duals is None else solved(duals)


def independent_factor(gram: Array, tolerance: ArrayLike) -> tuple[Array, Array]:
    """Cholesky's factor of a Gram matrix, `(n, n)`, whose rows may depend on one another.

    Where the square that is left to a row is not above `tolerance`, the row is as if it were not
    there: its column of the factor is that of the identity. Gives the factor and the squares.
    """
    if gram.shape[:1] == (0,):
        return gram, jnp.diagonal(gram)
    # Within `shard_map` it varies over the mesh as the Gram matrix does, as `cond` wants it.
    tolerance = tolerance + jnp.sum(jnp.zeros_like(gram[:1]))
    factor = jnp.linalg.cholesky(gram, symmetrize_input=False)
    squares = jnp.diagonal(factor) ** 2
    sound = jnp.all(squares > tolerance)  # a NaN is not
    return jax.lax.cond(
        sound,
        lambda found, *_: found,
        lambda _, *given: _greedy_factor(*given),
        (factor, squares),
        gram,
        tolerance,
    )


def _greedy_factor(gram: Array, tolerance: ArrayLike) -> tuple[Array, Array]:
    """The same, a column at a time."""
    index = jnp.arange(gram.shape[0])

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
