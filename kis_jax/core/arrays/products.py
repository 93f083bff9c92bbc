"""Matrix products at the full precision of their operands."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import PartitionSpec
from jax.typing import DTypeLike

from kis_jax.core.arrays.extended import pair, product
from kis_jax.core.arrays.mesh import Axes, axes_of, by_rows, from_next, layout, spread

matmul = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
"""`jnp.matmul` that no device may shorten: float32 stays float32 on a TPU or a GPU as well."""


def inner(
    a: Array, b: Array, *, extended: bool = False, axis_name: str | Axes | None = None
) -> Array:
    """Inner products of all rows, `a @ b.T`, laid out as the rows of `a` are.

    Where the rows of both are dealt out over the same devices, those of `b` go around a ring: no
    device ever holds all of them. Where entries along the rows are, each sums its own.

    Args:
      a: `(p, k)`.
      b: `(q, k)`.
      extended: whether float32 is rounded only at the end.
      axis_name: within `shard_map`, the mesh axes that the rows of both are dealt out over; then
        the result has this device's rows and all columns.
    """
    if axis_name:
        return _around(a, b, extended, axis_name)
    found = layout(a) or layout(b)
    if found is None:
        return product(pair(a), pair(b)).high if extended else matmul(a, b.T)
    rows, columns, along = axes_of(a), axes_of(b), axes_of(a, 1) or axes_of(b, 1)
    if rows and rows == columns:
        spec = PartitionSpec(rows)
        specs, options = (spec, spec), {"extended": extended, "axis_name": rows}
        return spread(inner, found.mesh, specs, spec, a, b, **options)
    if along and not extended and not rows and not columns:
        spec = PartitionSpec(None, along)
        return spread(_summed, found.mesh, (spec, spec), PartitionSpec(), a, b, axis_name=along)
    if columns and not rows:
        return by_rows(inner, b, a, extended=extended).T
    return by_rows(inner, a, b, extended=extended)


def _around(a: Array, b: Array, extended: bool, axis_name: str | Axes) -> Array:
    def step(visiting: Array, _: None) -> tuple[Array, Array]:
        return from_next(visiting, axis_name), inner(a, visiting, extended=extended)

    _, products = jax.lax.scan(step, b, length=jax.lax.axis_size(axis_name))
    ring = jnp.moveaxis(products, 0, 1).reshape(a.shape[0], -1)
    return jnp.roll(ring, len(b) * jax.lax.axis_index(axis_name), axis=1)


def _summed(a: Array, b: Array, axis_name: str | Axes) -> Array:
    return jax.lax.psum(inner(a, b), axis_name)


# Below this width, skipping half of a product saves less than it costs to put the parts together.
_NARROW = 1024


def gram(keys: Array, dtype: DTypeLike) -> Array:
    """`keys.T @ keys`, its mirrored part copied rather than computed.

    Splits the columns in two, again and again: each time, three products of a quarter of the size
    take the place of four, so that little more than half of the operations remain.
    """
    d = keys.shape[1]
    if d < _NARROW or d % 2:
        return transposed_product(keys, keys, dtype)
    left, right = keys[:, : d // 2], keys[:, d // 2 :]
    mixed = transposed_product(left, right, dtype)
    return jnp.block([[gram(left, dtype), mixed], [mixed.T, gram(right, dtype)]])


def mirrored(matrix: Array) -> Array:
    """The upper triangle of a matrix `(d, d)`, and the same below the diagonal.

    Not every processor's product of keys with themselves is symmetric to the last bit.
    """
    return jnp.triu(matrix) + jnp.triu(matrix, 1).T


def transposed_product(left: Array, right: Array, dtype: DTypeLike) -> Array:
    """`left.T @ right`, at the highest precision, summed in `dtype`."""
    return jax.lax.dot_general(
        left,
        right,
        (((0,), (0,)), ((), ())),
        precision=jax.lax.Precision.HIGHEST,
        preferred_element_type=dtype,
    )


def scaled(rows: Array, *, over: int | None = -1) -> tuple[Array, Array]:
    """Rows times powers of two that bring their largest entries to about 1, and these powers.

    No digit changes, and squares stay within the range of the dtype.

    Args:
      rows: `(..., d)`.
      over: the axis along which entries share a power; None: all of them share one.

    Returns:
      The rows; and the powers, `(..., 1)`, or of no dimensions.
    """
    sizes = jnp.max(jnp.abs(jax.lax.stop_gradient(rows)), axis=over, keepdims=True, initial=0)
    power = power_of_two(sizes)
    return rows * power, power if over is not None else power.reshape(())


def power_of_two(sizes: Array) -> Array:
    """The power of two that brings a size to about 1; 1 for zero, and for what is not finite."""
    exponent = jnp.frexp(jnp.where(jnp.isfinite(sizes), sizes, 1))[1]
    least = jnp.finfo(sizes.dtype).minexp + 1
    return jnp.ldexp(jnp.ones_like(sizes), -jnp.clip(exponent, least, -least))


def lengths(rows: Any) -> Any:
    """Euclidean lengths along the last axis, `(..., d)` to `(...)`, of jax's or NumPy's arrays."""
    return (rows * rows).sum(axis=-1) ** 0.5
