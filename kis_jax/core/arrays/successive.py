"""Edits made one after another: what each still has to write when its turn comes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from kis_jax.core.arrays.checks import known
from kis_jax.core.arrays.products import inner
from kis_jax.core.arrays.triangular import triangular_inverse

_BLOCK = 256  # edits that are solved for by an inverse, at most


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
    if known(n, q) and q * n * (r + m) <= r * m * (n + q):
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
      directions: $w_i$, `(n, r)`, of which $w_i \cdot k_i$ itself plays no part.
      keys: $k_i$, `(n, r)`, in the same coordinates.
      requested: $r_i$, `(n, m)`.
      extended: whether products are rounded only at their end, for float32.

    Returns:
      $x_i$, `(n, m)`.
    """
    (n, r), m = keys.shape, requested.shape[1]
    if not known(n) or n <= _BLOCK:
        shares = jnp.triu(inner(directions, keys, extended=extended), 1)
        shares = shares + jnp.eye(n, dtype=shares.dtype)
        return _refined(
            shares, requested, extended, lambda left: triangular_residuals(shares, left)
        )
    blocks = _blocks(directions, keys, extended)
    if n * (r + m) <= 4 * r * m:
        return _by_shares(directions, keys, requested, blocks, extended)
    return _by_update(directions, keys, requested, blocks, extended)


class _Blocks(NamedTuple):
    """What edits of a block write to each other, `(blocks, size, size)`; the last is filled up.

    Attributes:
      shares: unit-triangular.
      inverses: of them.
    """

    shares: Array
    inverses: Array

    def at(self, place: int | slice) -> _Blocks:
        """One of them, or some."""
        return _Blocks(self.shares[place], self.inverses[place])


def _blocks(directions: Array, keys: Array, extended: bool) -> _Blocks:
    def shares(start: Array | int, count: int) -> Array:
        along, here = (
            jax.lax.dynamic_slice_in_dim(rows, start, count) for rows in (directions, keys)
        )
        return jnp.triu(inner(along, here, extended=extended), 1)

    whole, rest = divmod(len(keys), _BLOCK)
    starts = _BLOCK * jnp.arange(whole, dtype=jnp.int32)
    found = jax.lax.map(functools.partial(shares, count=_BLOCK), starts)
    if rest:
        last = jnp.pad(shares(_BLOCK * whole, rest), (0, _BLOCK - rest))
        found = jnp.concatenate([found, last[None]])
    found = found + jnp.eye(_BLOCK, dtype=found.dtype)
    return _Blocks(found, jax.vmap(triangular_inverse)(found))


def _by_update(
    directions: Array, keys: Array, requested: Array, blocks: _Blocks, extended: bool
) -> Array:
    """Block by block, each on what those before it have written into the kernel."""
    n, product = len(keys), functools.partial(inner, extended=extended)

    def step(
        written: Array, at: tuple[Array | int, _Blocks], count: int = _BLOCK
    ) -> tuple[Array, Array]:
        start, block = at
        along, here, left = (
            jax.lax.dynamic_slice_in_dim(rows, start, count)
            for rows in (directions, keys, requested)
        )
        residuals = _of_a_block(block, left - product(here, written.T), extended)
        return written + product(along.T, residuals.T), residuals

    written = jnp.zeros_like(directions[:1].T * requested[:1])
    whole, rest = divmod(n, _BLOCK)
    starts = _BLOCK * jnp.arange(whole, dtype=jnp.int32)
    written, residuals = jax.lax.scan(step, written, (starts, blocks.at(slice(whole))))
    residuals = residuals.reshape(n - rest, -1)
    if not rest:
        return residuals
    _, last = step(written, (n - rest, blocks.at(-1)), rest)
    return jnp.concatenate([residuals, last])


def _by_shares(
    directions: Array, keys: Array, requested: Array, blocks: _Blocks, extended: bool
) -> Array:
    """By halves: the first does not know of the second, and lands on it as a whole."""
    count = len(blocks.shares)
    if count == 1:
        return _of_a_block(blocks.at(0), requested, extended)
    product = functools.partial(inner, extended=extended)
    middle = (count + 1) // 2
    half = middle * _BLOCK
    first = _by_shares(
        directions[:half], keys[:half], requested[:half], blocks.at(slice(middle)), extended
    )
    found = product(product(keys[half:], directions[:half]), first.T)
    second = _by_shares(
        directions[half:],
        keys[half:],
        requested[half:] - found,
        blocks.at(slice(middle, None)),
        extended,
    )
    return jnp.concatenate([first, second])


def _of_a_block(block: _Blocks, requested: Array, extended: bool) -> Array:
    """The residuals of one block, which may have fewer edits than it has room for."""
    shares, inverse = (matrix[: len(requested), : len(requested)] for matrix in block)
    solve = lambda left: inner(inverse.T, left.T, extended=extended)  # noqa: E731
    return _refined(shares, requested, extended, solve)


def _refined(
    shares: Array, requested: Array, extended: bool, solve: Callable[[Array], Array]
) -> Array:
    """A solution; if `extended`, with a step of iterative refinement to take its rounding away."""
    residuals = solve(requested)
    if extended:
        residuals += solve(requested - inner(shares.T, residuals.T, extended=True))
    return residuals


def triangular_residuals(shares: Array, requested: Array) -> Array:
    """The same from the shares `(n, n)`, row i landing on column j: x.T @ triu(shares) = r.T.

    Asked for in this form, LAPACK finds the right-hand sides by columns, as it wants them, where
    they lie; solved from the left, each would be copied to another layout and back.
    """
    return jax.lax.linalg.triangular_solve(
        shares, requested.T, left_side=False, lower=False, unit_diagonal=True
    ).T
