"""Edits made one after another: what each still has to write when its turn comes."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import Array

from kis_jax.core.products import inner
from kis_jax.core.triangular import triangular_inverse

_BLOCK = 256  # edits that are solved for by an inverse


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
    have written there. This is one unit-triangular system, solved by blocks of edits, so that
    nearly all of it is products of matrices. What a block finds written comes either from the
    shares of all edits before, $n^2 (r + m)$ operations in all, or from one running update of the
    kernel, $4 n r m$: whichever is less.

    Args:
      directions: $w_i$, `(n, r)`, with $w_i \cdot k_i = 1$.
      keys: $k_i$, `(n, r)`, in the same coordinates.
      requested: $r_i$, `(n, m)`.
      extended: whether products are rounded only at their end, for float32.

    Returns:
      $x_i$, `(n, m)`.
    """
    (n, r), m = keys.shape, requested.shape[1]
    if n <= _BLOCK:
        return _of_a_block(directions, keys, requested, extended)
    if n * (r + m) <= 4 * r * m:
        return _by_shares(directions, keys, requested, extended)
    return _by_update(directions, keys, requested, extended)


def _by_update(directions: Array, keys: Array, requested: Array, extended: bool) -> Array:
    """Block by block, each on what those before it have written into the kernel."""
    n, product = len(keys), functools.partial(inner, extended=extended)

    def block(written: Array, start: Array | int, size: int = _BLOCK) -> tuple[Array, Array]:
        along, here, left = (
            jax.lax.dynamic_slice_in_dim(rows, start, size)
            for rows in (directions, keys, requested)
        )
        left = left - product(here, written.T)
        residuals = _of_a_block(along, here, left, extended)
        return written + product(along.T, residuals.T), residuals

    written = jnp.zeros_like(directions[:1].T * requested[:1])
    whole, rest = divmod(n, _BLOCK)
    written, residuals = jax.lax.scan(block, written, _BLOCK * jnp.arange(whole))
    residuals = residuals.reshape(n - rest, -1)
    if not rest:
        return residuals
    _, last = block(written, n - rest, rest)
    return jnp.concatenate([residuals, last])


def _by_shares(directions: Array, keys: Array, requested: Array, extended: bool) -> Array:
    """By halves: the first does not know of the second, and lands on it as a whole."""
    n = len(keys)
    if n <= _BLOCK:
        return _of_a_block(directions, keys, requested, extended)
    product = functools.partial(inner, extended=extended)
    half = _BLOCK * -(-n // (2 * _BLOCK))
    first = _by_shares(directions[:half], keys[:half], requested[:half], extended)
    found = product(product(keys[half:], directions[:half]), first.T)
    second = _by_shares(directions[half:], keys[half:], requested[half:] - found, extended)
    return jnp.concatenate([first, second])


def _of_a_block(directions: Array, keys: Array, requested: Array, extended: bool) -> Array:
    """By the inverse of the block's own shares."""
    product = functools.partial(inner, extended=extended)
    shares = jnp.triu(product(directions, keys), 1) + jnp.eye(len(keys), dtype=keys.dtype)
    inverse = triangular_inverse(shares).T
    residuals = product(inverse, requested.T)
    if extended:  # one step of iterative refinement takes the rounding of the inverse away
        left = requested - product(shares.T, residuals.T)
        residuals = residuals + product(inverse, left.T)
    return residuals


def triangular_residuals(shares: Array, requested: Array) -> Array:
    """The same from the shares `(n, n)`, row i landing on column j: x.T @ triu(shares) = r.T.

    Asked for in this form, LAPACK finds the right-hand sides by columns, as it wants them, where
    they lie; solved from the left, each would be copied to another layout and back.
    """
    return jax.lax.linalg.triangular_solve(
        shares, requested.T, left_side=False, lower=False, unit_diagonal=True
    ).T
