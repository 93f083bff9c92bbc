"""Matrix products and triangular solves at the full precision of their operands."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import Array

from kis_jax.core.extended import pair, product

matmul = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
"""`jnp.matmul` that no device may shorten: float32 stays float32 on a TPU or a GPU as well."""


_MANY = 8192  # rows, from which on products of matrices solve faster than LAPACK does
_BLOCK = 512  # unknowns that are solved for by an inverse


def inner(a: Array, b: Array, *, extended: bool = False) -> Array:
    """Inner products of all rows, `a @ b.T`; in float32 rounded only at their end if `extended`."""
    if extended:
        return product(pair(a), pair(b)).high
    return matmul(a, b.T)


def solve_rows(upper: Array, rows: Array, *, transpose: bool = False) -> Array:
    """Solves `x @ R = rows` for an upper-triangular R `(d, d)`; `x @ R.T = rows` if transposed.

    LAPACK and its like on other devices want matrices by columns. R by rows is R.T by columns, and
    so it is read where it lies; a lower-triangular factor would be copied for every solve. For many
    rows, products of matrices are quicker than substitution: see `_by_halves`.
    """
    if len(rows) < _MANY:
        return jax.lax.linalg.triangular_solve(
            upper.T, rows, left_side=False, lower=True, transpose_a=not transpose
        )
    return _by_halves(upper, rows, transpose)


def _by_halves(upper: Array, rows: Array, transpose: bool) -> Array:
    """Half of the unknowns, what they leave to the others, and the others: nearly all products.

    Only blocks on the diagonal are inverted, which loses no more digits than substitution does.
    """
    d = len(upper)
    if d <= _BLOCK:
        inverse = solve_columns(upper.T, jnp.eye(d, dtype=upper.dtype), transpose=True)
        return matmul(rows, inverse.T if transpose else inverse)
    half = _BLOCK * -(-d // (2 * _BLOCK))
    first, second, corner = upper[:half, :half], upper[half:, half:], upper[:half, half:]
    if transpose:
        right = _by_halves(second, rows[:, half:], transpose)
        left = _by_halves(first, rows[:, :half] - matmul(right, corner.T), transpose)
    else:
        left = _by_halves(first, rows[:, :half], transpose)
        right = _by_halves(second, rows[:, half:] - matmul(left, corner), transpose)
    return jnp.concatenate([left, right], axis=1)


def solve_columns(factor: Array, columns: Array, *, transpose: bool = False) -> Array:
    """Solves L x = columns for a lower-triangular L, or L.T x = columns."""
    return jax.lax.linalg.triangular_solve(
        factor, columns, left_side=True, lower=True, transpose_a=transpose
    )
