"""Checks of arguments that every part of the core makes alike."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.typing import ArrayLike, DTypeLike


def holds_or_traced(condition: Array) -> bool:
    """Whether a condition on numbers holds; under tracing it cannot be known, and is let pass."""
    return isinstance(condition, Tracer) or bool(condition)


@jax.jit
def or_nan(condition: Array, x: Array) -> Array:
    """Numbers where a condition holds, else NaN; `debug_nans` would stop at a NaN not compiled."""
    return jnp.where(condition, x, jnp.nan)


def known(*sizes: int) -> bool:
    """Whether sizes are numbers; `jax.export` may leave some open, of which no branch can ask."""
    return all(isinstance(size, int) for size in sizes)


def as_rows(name: str, rows: ArrayLike, width: int | None) -> Array:
    """An array of one fact a row, checked against its width; integers are read as floats.

    Raises:
      ValueError: if `rows` is not a matrix, not of the given width (None admits any), or complex.
    """
    rows = as_real(name, rows)
    if rows.ndim != 2 or width not in (None, rows.shape[1]):
        raise ValueError(
            f"{name}: expected shape (n, {'d' if width is None else width}), one fact a row, "
            f"found {rows.shape}; take all keys and the second moment from the same layer of the "
            "same model"
        )
    return rows


def as_real(name: str, array: ArrayLike, *, wide: bool = False) -> Array:
    """An array of floats; integers are read as such.

    Args:
      name: of the argument.
      array: the argument.
      wide: whether bfloat16 and float16 become float32.

    Raises:
      ValueError: if it is complex.
    """
    # Placed rather than converted: that would be a program for each shape.
    found: Array = jax.device_put(array) if isinstance(array, np.ndarray) else jnp.asarray(array)
    if jnp.issubdtype(found.dtype, jnp.complexfloating):
        raise ValueError(f"{name}: expected real numbers, found {found.dtype}; take its real part")
    if not jnp.issubdtype(found.dtype, jnp.floating):
        return found.astype(float)
    return found.astype(jnp.float32) if wide and found.dtype.itemsize < 4 else found


def as_number(name: str, number: ArrayLike, dtype: DTypeLike | None, *, least: float = 0) -> Array:
    """A number as an array of no dimensions, in a dtype.

    Raises:
      ValueError: if it is an array of several, or, as far as that can be known, below the least.
    """
    array = jnp.asarray(number)
    if array.ndim:
        raise ValueError(f"{name}: expected one number, found an array of shape {array.shape}")
    array = array if dtype is None else array.astype(dtype)
    if not holds_or_traced(array >= least):
        raise ValueError(f"{name}: expected a number of at least {least}, found {array}")
    return array


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
