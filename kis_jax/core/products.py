"""Matrix products and triangular solves at the full precision of their operands."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import Array

from kis_jax.core.extended import pair, product

matmul = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
"""`jnp.matmul` that no device may shorten: float32 stays float32 on a TPU or a GPU as well."""


_MANY = 1024  # rows


def inner(a: Array, b: Array, *, extended: bool = False) -> Array:
    """Inner products of all rows, `a @ b.T`; in float32 rounded only at their end if `extended`."""
    if extended:
        return product(pair(a), pair(b)).high
    return matmul(a, b.T)


def solve_rows(upper: Array, rows: Array, *, transpose: bool = False) -> Array:
    """Solves `x @ R = rows` for an upper-triangular R `(d, d)`; `x @ R.T = rows` if transposed.

    LAPACK and its like on other devices want matrices by columns. R by rows is R.T by columns, and
    so it is read where it lies; a lower-triangular factor would be copied for every solve. Many
    rows are turned to columns as well, a few are cheaper to copy.
    """
    if len(rows) < _MANY:
        return jax.lax.linalg.triangular_solve(
            upper.T, rows, left_side=False, lower=True, transpose_a=not transpose
        )
    return solve_columns(upper.T, rows.T, transpose=transpose).T


def solve_columns(factor: Array, columns: Array, *, transpose: bool = False) -> Array:
    """Solves L x = columns for a lower-triangular L, or L.T x = columns."""
    return jax.lax.linalg.triangular_solve(
        factor, columns, left_side=True, lower=True, transpose_a=transpose
    )
