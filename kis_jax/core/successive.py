"""Edits made one after another: what each still has to write when its turn comes."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import Array

from kis_jax.core.products import inner

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
    if n <= _FEW:
        return _few_residuals_met(directions, keys, requested, extended)
    if n * (r + m) <= 4 * r * m:
        return _by_shares(directions, keys, requested, extended)
    return _by_update(directions, keys, requested, extended)


def _by_update(directions: Array, keys: Array, requested: Array, extended: bool) -> Array:
    """Block by block, each on what those before it have written into the kernel."""
    n, product = len(keys), functools.partial(inner, extended=extended)

    def block(written: Array, start: Array | int, size: int = _FEW) -> tuple[Array, Array]:
        along, here, left = (
            jax.lax.dynamic_slice_in_dim(rows, start, size)
            for rows in (directions, keys, requested)
        )
        left = left - product(here, written.T)
        residuals = _few_residuals_met(along, here, left, extended)
        return written + product(along.T, residuals.T), residuals

    written = jnp.zeros_like(directions[:1].T * requested[:1])
    whole, rest = divmod(n, _FEW)
    written, residuals = jax.lax.scan(block, written, _FEW * jnp.arange(whole))
    residuals = residuals.reshape(n - rest, -1)
    if not rest:
        return residuals
    _, last = block(written, n - rest, rest)
    return jnp.concatenate([residuals, last])


def _by_shares(directions: Array, keys: Array, requested: Array, extended: bool) -> Array:
    """By halves: the first does not know of the second, and lands on it as a whole."""
    n = len(keys)
    if n <= _FEW:
        return _few_residuals_met(directions, keys, requested, extended)
    product = functools.partial(inner, extended=extended)
    half = _FEW * -(-n // (2 * _FEW))
    first = _by_shares(directions[:half], keys[:half], requested[:half], extended)
    found = product(product(keys[half:], directions[:half]), first.T)
    second = _by_shares(directions[half:], keys[half:], requested[half:] - found, extended)
    return jnp.concatenate([first, second])


def _few_residuals_met(directions: Array, keys: Array, requested: Array, extended: bool) -> Array:
    """By one triangular solve."""
    shares = jnp.triu(inner(directions, keys, extended=extended))
    residuals = triangular_residuals(shares, requested)
    if extended:  # one step of iterative refinement takes the rounding of the solve away
        left = requested - inner(shares.T, residuals.T, extended=True)
        residuals = residuals + triangular_residuals(shares, left)
    return residuals


def triangular_residuals(shares: Array, requested: Array) -> Array:
    """The same from the shares `(n, n)`, row i landing on column j: x.T @ triu(shares) = r.T.

    Asked for in this form, LAPACK finds the right-hand sides by columns, as it wants them, where
    they lie; solved from the left, each would be copied to another layout and back.
    """
    return jax.lax.linalg.triangular_solve(
        shares, requested.T, left_side=False, lower=False, unit_diagonal=True
    ).T
