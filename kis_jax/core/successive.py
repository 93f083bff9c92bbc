"""Edits made one after another: what each still has to write when its turn comes."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from kis_jax.core.products import inner, matmul

# Below this number of edits, one triangular solve is quicker than two halves of it.
_FEW = 512


def landed(directions: Array, residuals: Array, keys: Array, *, extended: bool = False) -> Array:
    r"""What edits add to the values of keys, $\sum_i (w_i \cdot k) x_i$.

    Args:
      directions: `(n, r)`, in the space of the keys or in whitened coordinates, like `keys`.
      residuals: `(n, m)`.
      keys: `(q, r)`.
      extended: whether products are rounded only at their end, for float32.

    Returns:
      `(q, m)`, multiplied through the `(q, n)` shares or the `(r, m)` update, whichever takes
      fewer operations.
    """
    (n, r), m, q = directions.shape, residuals.shape[1], keys.shape[0]
    product = functools.partial(inner, extended=extended)
    if q * n * (r + m) <= r * m * (n + q):
        return product(product(keys, directions), residuals.T)
    return product(keys, product(residuals.T, directions.T))


def residuals_met(
    directions: Array, keys: Array, requested: Array, *, extended: bool = False
) -> Array:
    r"""The residual that each edit meets, all edits being made in the order of the rows.

    $x_j = r_j - \sum_{i<j} (w_i \cdot k_j) x_i$: the value asked for, less what the edits before
    have written there. This is one unit-triangular system. Solved by halves: the first half of
    the edits does not know of the second, and lands on it as a whole, in products of matrices;
    nowhere is there an array of n by n.

    Args:
      directions: $w_i$, `(n, r)`, with $w_i \cdot k_i = 1$.
      keys: $k_i$, `(n, r)`, in the same coordinates.
      requested: $r_i$, `(n, m)`.
      extended: whether products are rounded only at their end, for float32.

    Returns:
      $x_i$, `(n, m)`.
    """
    n = len(keys)
    if n > _FEW:
        half = _FEW * -(-n // (2 * _FEW))
        first = residuals_met(directions[:half], keys[:half], requested[:half], extended=extended)
        found = landed(directions[:half], first, keys[half:], extended=extended)
        second = residuals_met(
            directions[half:], keys[half:], requested[half:] - found, extended=extended
        )
        return jnp.concatenate([first, second])
    shares = jnp.triu(inner(directions, keys, extended=extended))
    residuals = triangular_residuals(shares, requested)
    if extended:  # one step of iterative refinement takes the rounding of the solve away
        left = requested - inner(shares.T, residuals.T, extended=True)
        residuals = residuals + triangular_residuals(shares, left)
    return residuals


def triangular_residuals(shares: Array, requested: Array) -> Array:
    """The same from the shares `(n, n)`, row i landing on column j: triu(shares).T @ x = r."""
    return jax.lax.linalg.triangular_solve(
        shares, requested, left_side=True, lower=False, transpose_a=True, unit_diagonal=True
    )


def orthonormal(rows: Array, tolerance: ArrayLike) -> tuple[Array, Array]:
    """Rows made orthonormal in their order, and what the squares of their lengths were by then.

    Where a square is not above `tolerance` the row becomes zeros, and later ones ignore it. This
    is Gram and Schmidt's process on the Gram matrix, a column of its Cholesky factor at a time.
    """
    index = jnp.arange(len(rows))

    def step(rest: Array, i: Array) -> tuple[Array, tuple[Array, Array]]:
        square = rest[i, i]
        kept = square > tolerance
        column = jnp.where(kept & (index >= i), rest[:, i], 0)
        column = column * jax.lax.rsqrt(jnp.where(kept, square, 1))
        return rest - jnp.outer(column, column), (column, square)

    _, (columns, squares) = jax.lax.scan(step, matmul(rows, rows.T), index)
    kept = squares > tolerance
    factor = columns.T + jnp.diag(jnp.where(kept, 0, jnp.ones((), rows.dtype)))
    solved = jax.lax.linalg.triangular_solve(factor, rows, left_side=True, lower=True)
    return jnp.where(kept[:, None], solved, 0), squares
