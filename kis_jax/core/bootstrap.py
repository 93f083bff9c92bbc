"""How sure a kurtosis of superposition is: a bootstrap over facts."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from kis_jax.core.moments import from_power_sums, moments
from kis_jax.core.products import matmul

_BATCH = 256  # resamples at once


class Interval(NamedTuple):
    """Confidence interval of a statistic from its resampled values.

    Attributes:
      lower: `()`, its lower limit.
      upper: `()`, its upper limit.
      std: `()`, the standard deviation of the resampled values: the standard error.
    """

    lower: Array
    upper: Array
    std: Array


def kurtosis_interval(
    superposition: Array, rng: Array, *, resamples: int = 1000, confidence: float = 0.95
) -> Interval:
    r"""Bootstrap confidence interval of the kurtosis of the off-diagonal entries of P, over facts.

    Entries of P that share a fact are not independent, so facts are drawn anew, with replacement,
    and with each its row and column. Entries between copies of one fact are left out: they are 1.

    A resample is a vector w of how often each fact was drawn, and the power sums of its entries
    are quadratic forms $\sum_{i \ne j} w_i w_j p_{ij}^k$: four matrix products serve all resamples.

    Args:
      superposition: P, `(n, n)`, of three facts or more; its diagonal is ignored.
      rng: a random key.
      resamples: how many.
      confidence: the probability that the interval holds the kurtosis of the population of facts.
        The limits are percentiles; with few facts and heavy tails, whose kurtosis a sample
        underestimates, they hold it less often.

    Returns:
      An `Interval`; NaN if P is constant. Of a handful of facts, resamples without two different
      entries are left out.

    Raises:
      ValueError: if `superposition` is not a square matrix of three facts or more, `resamples` is
        below 2, or `confidence` not between 0 and 1.

    Example:
      >>> import jax
      >>> rng = jax.random.key(0)
      >>> interval = kurtosis_interval(jax.random.normal(rng, (50, 50)), rng)
      >>> bool(interval.lower < 0 < interval.upper)
      True

    Reference: Snijders and Borgatti 1999, Non-parametric standard errors and tests for network
    statistics (Connections 22), the vertex bootstrap.
    """
    shape = jnp.shape(superposition)
    if len(shape) != 2 or shape[0] != shape[1] or shape[0] < 3:
        raise ValueError(
            f"superposition: expected a square matrix of three or more facts, found shape {shape}"
        )
    if resamples < 2:
        raise ValueError(f"resamples: expected at least 2, found {resamples}; take a thousand")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence: expected a number between 0 and 1, found {confidence}")
    values = _resampled(jnp.asarray(superposition), rng, resamples)
    tail = (1 - confidence) / 2
    limits = jnp.nanquantile(values, jnp.asarray([tail, 1 - tail], values.dtype))
    return Interval(limits[0], limits[1], jnp.nanstd(values))


@functools.partial(jax.jit, static_argnames="resamples")
def _resampled(p: Array, rng: Array, resamples: int) -> Array:
    """Kurtosis of each resample, `(resamples,)`."""
    n = len(p)
    off = ~jnp.eye(n, dtype=bool)
    whole = moments(p, where=off)
    # Centred, so that nothing cancels; scaled, so that no fourth power overflows or vanishes.
    scaled = jnp.where(off, (p - whole.mean) / jnp.sqrt(whole.variance), 0)
    powers = (off.astype(scaled.dtype), scaled, scaled**2, scaled**3, scaled**4)

    def kurtosis(rng: Array) -> Array:
        weights = draw_counts(rng, n).astype(scaled.dtype)
        count, *sums = (matmul(weights, power) @ weights for power in powers)
        return from_power_sums(count, sums).kurtosis

    return jax.lax.map(kurtosis, jax.random.split(rng, resamples), batch_size=_BATCH)


def draw_counts(rng: Array, n: int) -> Array:
    """How often each of n facts is among n drawn with replacement, `(n,)` int.

    Example:
      >>> import jax
      >>> int(draw_counts(jax.random.key(0), 10).sum())
      10
    """
    return jnp.bincount(jax.random.randint(rng, (n,), 0, n), length=n)
