"""Mean, variance, skewness and kurtosis that can be merged."""

from __future__ import annotations

import dataclasses
import functools
import math
import operator
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import PartitionSpec
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Real

from kis_jax.core.arrays.checks import known, or_nan
from kis_jax.core.arrays.mesh import Axes, axes_of, gathered, layout, spread
from kis_jax.core.arrays.pytrees import pytree

# Sums run over so many parts at most, then over sums: with a thousand million float32 entries a
# plain sum no longer sees the next one.
_BLOCK = 512
# Entries worked on at once: what they need in between stays in the cache, and is not held for all.
_CHUNK = 2**18


@pytree
@dataclasses.dataclass(frozen=True, eq=False)
class Moments:
    r"""Count, mean and central sums $M_p = \sum (x - \bar x)^p$ of a sample.

    A monoid under `merge`, so that the statistics of an array too large to hold come from its
    parts. All fields share one shape, the axes that `moments` did not reduce.

    Attributes:
      count: number of entries, in the dtype of the data: in float32 exact to 2^24, and correct to
        six digits beyond.
      mean: their mean.
      m2: sum of squared deviations from the mean.
      m3: sum of cubed deviations.
      m4: sum of fourth powers of deviations.

    Many parts are best stacked, as `jax.lax.scan` and `jax.lax.all_gather` do, and merged at once
    by `merged`: each `merge` of a small part into a large whole rounds the whole once more.

    Reference: Pébay 2008 (SAND2008-6212), eqs. 1.3, 2.1; the names are those of `scipy.stats`.
    """

    count: Array
    mean: Array
    m2: Array
    m3: Array
    m4: Array

    @property
    def variance(self) -> Float[Array, "*rest"]:
        """Biased variance, as `numpy.var`."""
        return self.m2 / self.count

    @property
    def skewness(self) -> Float[Array, "*rest"]:
        """Biased skewness, as `scipy.stats.skew`; NaN for a constant sample."""
        return self._unless_constant(lambda m2: self.m3 / m2 * jnp.sqrt(self.count / m2))

    @property
    def kurtosis(self) -> Float[Array, "*rest"]:
        """Biased excess kurtosis, as `scipy.stats.kurtosis`: 0 for a normal distribution.

        NaN for a constant sample, and where fourth powers leave the range of the dtype, as those
        of float32 numbers below 10^-9 or above 10^9 do.
        """
        range_of = jnp.finfo(self.m4.dtype)
        sound = (self.m4 > range_of.tiny / range_of.eps * self.count) & (self.m4 < jnp.inf)
        excess = self._unless_constant(lambda m2: self.m4 / m2 * (self.count / m2) - 3)
        return or_nan(sound, excess)

    def merge(self, other: Moments) -> Moments:
        """The moments of both samples together; either may be empty."""
        both = jax.tree.map(lambda *pair: jnp.stack(jnp.broadcast_arrays(*pair)), self, other)
        return both.merged()

    def merged(self, axis: int = 0) -> Moments:
        """The moments of all samples along an axis together; any may be empty.

        As exact for a million parts as for two: they are merged in blocks, then the blocks.

        Examples:
          >>> import jax.numpy as jnp
          >>> days = moments(jnp.arange(6.0).reshape(2, 3), axis=1)
          >>> days.mean, days.merged().mean
          (Array([1., 4.], dtype=float32), Array(2.5, dtype=float32))
        """
        return _merged(self, axis)

    def moved(self, by: Real[ArrayLike, "*rest"]) -> Moments:
        """The moments of the same entries plus a number."""
        return dataclasses.replace(self, mean=self.mean + by)

    def _unless_constant(self, statistic: Callable[[Array], Array]) -> Array:
        """NaN where all deviations from the mean are rounding errors of it."""
        rounding = self.count * (jnp.finfo(self.mean.dtype).eps * self.mean) ** 2
        varied = self.m2 > rounding
        # Twice, for the gradient: the branch not taken must be finite too.
        return or_nan(varied, statistic(jnp.where(varied, self.m2, 1)))


def moments(
    x: Real[Array, "*shape"],
    axis: int | Sequence[int] | None = None,
    where: Bool[ArrayLike, "*#shape"] | None = None,
) -> Moments:
    """Moments of the entries of an array.

    Two passes over blocks of the data (the mean, then powers of deviations), whose moments are
    merged: stable in float32 for 10^9 entries and more. Where the array is dealt out over devices,
    each works on its part. Use `Moments.merged` over parts of data that is not in hand.

    Args:
      x: real array of any shape; integers are read as floats, bfloat16 and float16 as float32.
      axis: axis or axes to reduce; all if None. The others stay, as a batch.
      where: bool, broadcast against `x`: the entries that count.

    Returns:
      Moments of the shape of the axes that remain. Without entries: count 0, sums 0.

    Raises:
      ValueError: if `x` is complex, or has no such axis.

    Examples:
      >>> import jax.numpy as jnp
      >>> float(moments(jnp.array([1.0, 2.0, 3.0, 4.0])).kurtosis)
      -1.36...
    """
    x = jnp.asarray(x)
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        raise ValueError(f"x: expected real entries, found {x.dtype}; pass its parts one by one")
    given = range(x.ndim) if axis is None else axis if isinstance(axis, Sequence) else (axis,)
    axes = tuple(operator.index(a) for a in given)
    if len({a % x.ndim for a in axes if -x.ndim <= a < x.ndim}) < len(axes):
        raise ValueError(
            f"axis: expected different axes from {-x.ndim} to {x.ndim - 1}, found {axis}"
        )
    axes = tuple(sorted(a % x.ndim for a in axes))
    where = None if where is None else jnp.asarray(where, bool)
    if (found := layout(x)) is None:
        return _moments(x, where, axes)
    where = None if where is None else jnp.broadcast_to(where, x.shape)
    rest = PartitionSpec(*(part for a, part in enumerate(found.spec) if a not in axes))
    along = sum((axes_of(x, a) for a in axes), ())
    specs, options = (found.spec, found.spec), {"axes": axes, "along": along}
    return spread(_of_devices, found.mesh, specs, rest, x, where, **options)


def _of_devices(x: Array, where: Array | None, *, axes: tuple[int, ...], along: Axes) -> Moments:
    """The moments of the parts of an array that devices along some axes of a mesh hold."""
    own = _moments(x, where, axes)
    return jax.tree.map(lambda field: gathered(field, along), own).merged() if along else own


@functools.partial(jax.jit, static_argnames="axes")
def _moments(x: Array, where: Array | None, axes: tuple[int, ...]) -> Moments:
    if not jnp.issubdtype(x.dtype, jnp.floating):
        x = x.astype(float)
    elif x.dtype.itemsize < 4:
        x = x.astype(jnp.float32)
    rest = [size for a, size in enumerate(x.shape) if a not in axes]
    last = range(x.ndim - len(axes), x.ndim)

    def rows(array: Array) -> Array:
        return jnp.moveaxis(array, axes, last).reshape(*rest, math.prod(x.shape[a] for a in axes))

    entries = rows(x)
    counted = None if where is None else rows(jnp.broadcast_to(where, x.shape))
    size = entries.shape[-1]
    if not known(*x.shape):
        return _of_entries(entries, counted)
    chunk = max(_BLOCK, _CHUNK // max(math.prod(rest), 1))
    full = size // chunk * chunk

    def part(start: ArrayLike, length: int) -> Moments:
        cut = functools.partial(
            jax.lax.dynamic_slice_in_dim, start_index=start, slice_size=length, axis=-1
        )
        return _of_entries(cut(entries), None if counted is None else cut(counted))

    if not full:
        return _of_entries(entries, counted)
    whole = jax.lax.map(lambda start: part(start, chunk), jnp.arange(0, full, chunk)).merged()
    return whole if full == size else whole.merge(part(full, size - full))


def _of_entries(entries: Array, counted: Array | None) -> Moments:
    """Moments along the last axis: each entry is a sample of one, or of none."""
    none = jnp.zeros_like(entries)
    count = jnp.ones_like(entries) if counted is None else counted.astype(entries.dtype)
    return Moments(count, entries, none, none, none).merged(-1)


def from_power_sums(count: Float[Array, "*rest"], sums: Sequence[Float[Array, "*rest"]]) -> Moments:
    """Moments from the sums of the first four powers of entries about a point near their mean."""
    s1, s2, s3, s4 = sums
    mean = s1 / jnp.maximum(count, 1)
    return Moments(
        count,
        mean,
        s2 - mean * s1,
        s3 - 3 * mean * s2 + 2 * mean**2 * s1,
        s4 - 4 * mean * s3 + 6 * mean**2 * s2 - 3 * mean**3 * s1,
    )


@functools.partial(jax.jit, static_argnames="axis")
def _merged(parts: Moments, axis: int) -> Moments:
    parts = jax.tree.map(lambda field: jnp.moveaxis(field, axis, -1), parts)
    while known(length := parts.mean.shape[-1]) and length > _BLOCK:
        full = length - length % _BLOCK
        blocks = _merge_last_axis(
            jax.tree.map(
                lambda field, full=full: field[..., :full].reshape(*field.shape[:-1], -1, _BLOCK),
                parts,
            )
        )
        if full < length:
            rest = _merge_last_axis(jax.tree.map(lambda field, full=full: field[..., full:], parts))
            blocks = jax.tree.map(
                lambda whole, part: jnp.concatenate([whole, part[..., None]], -1), blocks, rest
            )
        parts = blocks
    return _merge_last_axis(parts)


def _merge_last_axis(parts: Moments) -> Moments:
    """Pébay's formula for any number of parts.

    Counts enter as factors only, never as powers of themselves: with 10^9 entries these would
    overflow in float32.
    """
    if parts.mean.shape[-1:] == (0,):
        return jax.tree.map(lambda field: jnp.sum(field, -1), parts)
    counted = parts.count > 0
    means = jnp.where(counted, parts.mean, 0)
    count = jnp.sum(parts.count, -1, keepdims=True)
    # Means are added as differences from the first: a large common part of them rounds nothing.
    first = means[..., :1]
    share = parts.count / jnp.maximum(count, 1)
    mean = first + jnp.sum(share * (means - first), -1, keepdims=True)
    mean = jnp.where(count > 0, mean, 0)
    delta = jnp.where(counted, means - mean, 0)
    square = delta * delta
    m2 = parts.m2 + parts.count * square
    m3 = parts.m3 + delta * (3 * parts.m2 + parts.count * square)
    m4 = parts.m4 + 4 * delta * parts.m3 + square * (6 * parts.m2 + parts.count * square)
    return Moments(count[..., 0], mean[..., 0], *(jnp.sum(m, -1) for m in (m2, m3, m4)))
