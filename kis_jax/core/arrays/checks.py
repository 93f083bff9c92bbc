"""Checks of arguments that every part of the core makes alike."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array
from jax.core import Tracer
from jax.typing import ArrayLike


def holds_or_traced(condition: Array) -> bool:
    """Whether a condition on numbers holds; under tracing it cannot be known, and is let pass."""
    return isinstance(condition, Tracer) or bool(condition)


def as_rows(name: str, rows: ArrayLike, width: int | None) -> Array:
    """An array of one fact a row, checked against the width that it should have.

    Raises:
      ValueError: if `rows` is not a matrix, or not of the given width; None admits any.
    """
    shape = jnp.shape(rows)
    if len(shape) != 2 or width not in (None, shape[1]):
        raise ValueError(
            f"{name}: expected shape (n, {'d' if width is None else width}), one fact a row, "
            f"found {shape}; take all keys and the second moment from the same layer of the same "
            "model"
        )
    return jnp.asarray(rows)


def checked_kernel(kernel: Array, width: int) -> Array:
    """A kernel `(d, m)`, checked against the width of its keys.

    Raises:
      ValueError: if it has another shape.
    """
    if kernel.ndim != 2 or kernel.shape[0] != width:
        raise ValueError(
            f"kernel: expected shape ({width}, m), keys by values, found {kernel.shape}; torch's "
            "Linear stores the transpose"
        )
    return kernel
