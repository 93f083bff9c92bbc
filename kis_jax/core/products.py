"""Matrix products at the full precision of their operands."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from kis_jax.core.extended import pair, product

matmul = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
"""`jnp.matmul` that no device may shorten: float32 stays float32 on a TPU or a GPU as well."""


def inner(a: Array, b: Array, *, extended: bool = False) -> Array:
    """Inner products of all rows, `a @ b.T`; in float32 rounded only at their end if `extended`."""
    if extended:
        return product(pair(a), pair(b)).high
    return matmul(a, b.T)


def lengths(rows: Any) -> Any:
    """Euclidean lengths along the last axis, `(..., d)` to `(...)`, of jax's or NumPy's arrays."""
    return (rows * rows).sum(axis=-1) ** 0.5
