"""Mean, variance, skewness and kurtosis that can be merged."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Moments:
    r"""Count, mean and central sums $M_p = \sum (x - \bar x)^p$ of a sample.

    A monoid under `merge`, so that the statistics of an array too large to hold come from its
    tiles. All fields share one shape, the axes that `moments` did not reduce.

    Attributes:
      count: number of entries, in the dtype of the data, hence exact in float32 up to 2^24;
        beyond, a part should have at least a ten-millionth of the entries of the whole.
      mean: their mean.
      m2: sum of squared deviations from the mean.
      m3: sum of cubed deviations.
      m4: sum of fourth powers of deviations.

    Reference: Pébay 2008 (SAND2008-6212), eqs. 1.3, 2.1; the names are those of `scipy.stats`.
    """

    count: Array
    mean: Array
    m2: Array
    m3: Array
    m4: Array

    @property
    def variance(self) -> Array:
        """Biased variance, as `numpy.var`."""
        return self.m2 / self.count

    @property
    def skewness(self) -> Array:
        """Biased skewness, as `scipy.stats.skew`; NaN for a constant sample."""
        return self._unless_constant(self.m3 / self.m2 * jnp.sqrt(self.count / self.m2))

    @property
    def kurtosis(self) -> Array:
        """Biased excess kurtosis, as `scipy.stats.kurtosis`: 0 for a normal distribution."""
        return self._unless_constant(self.m4 / self.m2 * (self.count / self.m2) - 3)

    def _unless_constant(self, statistic: Array) -> Array:
        """NaN where all deviations from the mean are rounding errors of it."""
        rounding = self.count * (jnp.finfo(self.mean.dtype).eps * self.mean) ** 2
        return jnp.where(self.m2 > rounding, statistic, jnp.nan)

    def merge(self, other: Moments) -> Moments:
        """The moments of both samples together; either may be empty.

        Counts enter as shares of the whole, never as powers of themselves: with 10^9 entries
        these would overflow in float32.
        """
        count = self.count + other.count
        share, rest = (part.count / jnp.maximum(count, 1) for part in (self, other))
        delta = jnp.where((self.count > 0) & (other.count > 0), other.mean - self.mean, 0)
        mean = jnp.where(self.count > 0, self.mean + rest * delta, other.mean)
        both = share * rest * count
        m2 = self.m2 + other.m2 + delta**2 * both
        m3 = (
            self.m3
            + other.m3
            + delta**3 * both * (share - rest)
            + 3 * delta * (share * other.m2 - rest * self.m2)
        )
        m4 = (
            self.m4
            + other.m4
            + delta**4 * both * (1 - 3 * share * rest)
            + 6 * delta**2 * (share**2 * other.m2 + rest**2 * self.m2)
            + 4 * delta * (share * other.m3 - rest * self.m3)
        )
        return Moments(count, mean, m2, m3, m4)


def moments(
    x: Array, axis: int | Sequence[int] | None = None, where: ArrayLike | None = None
) -> Moments:
    """Moments of the entries of an array.

    Two passes over the data in hand (the mean, then powers of deviations), hence stable; use
    `Moments.merge` over parts of data that is not in hand.

    Args:
      x: real array of any shape; integers are read as floats, bfloat16 and float16 as float32.
      axis: axis or axes to reduce; all if None. The others stay, as a batch.
      where: bool, broadcast against `x`: the entries that count.

    Returns:
      Moments of the shape of the axes that remain. Without entries: count 0, sums 0.

    Raises:
      ValueError: if `x` is complex.

    Example:
      >>> import jax.numpy as jnp
      >>> float(moments(jnp.array([1.0, 2.0, 3.0, 4.0])).kurtosis)
      -1.36...
    """
    x = jnp.asarray(x)
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        raise ValueError(f"x: expected real entries, found {x.dtype}; pass its parts one by one")
    if not jnp.issubdtype(x.dtype, jnp.floating):
        x = x.astype(float)
    elif x.dtype.itemsize < 4:
        x = x.astype(jnp.float32)
    counted = jnp.broadcast_to(True if where is None else jnp.asarray(where, bool), x.shape)
    count = jnp.sum(counted, axis, dtype=x.dtype, keepdims=True)
    zero = jnp.zeros((), x.dtype)
    mean = jnp.sum(jnp.where(counted, x, zero), axis, keepdims=True) / jnp.maximum(count, 1)
    deviation = jnp.where(counted, x - mean, zero)
    square = deviation * deviation
    return Moments(
        jnp.squeeze(count, axis),
        jnp.squeeze(mean, axis),
        jnp.sum(square, axis),
        jnp.sum(square * deviation, axis),
        jnp.sum(square * square, axis),
    )
