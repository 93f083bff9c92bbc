"""How sure a kurtosis of superposition is: a bootstrap over facts, and subsets of them."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int, PRNGKeyArray

from kis_jax.core.arrays.checks import as_real
from kis_jax.core.arrays.products import matmul
from kis_jax.core.arrays.pytrees import exported
from kis_jax.core.statistics.moments import from_power_sums, moments

_BATCH = 256  # resamples at once


@exported
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


@exported
class KurtosisCurve(NamedTuple):
    """Kurtosis of P in the number of facts.

    Attributes:
      mean: `(s,)`, over random subsets of each size.
      low: `(s,)`, the 5th percentile over these subsets.
      high: `(s,)`, the 95th.
      lower: `(s,)`, lower limit of the bootstrap interval of as many facts.
      upper: `(s,)`, its upper limit.
    """

    mean: Array
    low: Array
    high: Array
    lower: Array
    upper: Array


def kurtosis_interval(
    rng: PRNGKeyArray,
    superposition: Float[Array, "n n"],
    *,
    resamples: int = 1000,
    confidence: float = 0.95,
) -> Interval:
    r"""Bootstrap confidence interval of the kurtosis of the off-diagonal entries of P, over facts.

    Entries of P that share a fact are not independent, so facts are drawn anew, with replacement,
    and with each its row and column. Entries between copies of one fact are left out: they are 1.

    A resample is a vector w of how often each fact was drawn, and the power sums of its entries
    are quadratic forms $\sum_{i \ne j} w_i w_j p_{ij}^k$: four matrix products serve all resamples.

    Args:
      rng: a random key.
      superposition: P, `(n, n)`, of three facts or more; its diagonal is ignored.
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

    Examples:
      >>> import jax
      >>> rng = jax.random.key(0)
      >>> interval = kurtosis_interval(rng, jax.random.normal(rng, (50, 50)))
      >>> bool(interval.lower < 0 < interval.upper)
      True

    Reference: Snijders and Borgatti 1999, Non-parametric standard errors and tests for network
    statistics (Connections 22), the vertex bootstrap.
    """
    rng, superposition = _rng_first(rng, superposition)
    superposition = as_real("superposition", superposition, wide=True)
    shape = superposition.shape
    if len(shape) != 2 or shape[0] != shape[1] or shape[0] < 3:
        raise ValueError(
            f"superposition: expected a square matrix of three or more facts, found shape {shape}"
        )
    _check_draws(resamples, confidence)
    values = _resampled(superposition, rng, resamples)
    limits = _quantiles(values, (1 - confidence) / 2)
    return Interval(limits[0], limits[1], jnp.nanstd(values))


def kurtosis_convergence(
    rng: PRNGKeyArray,
    superposition: Float[Array, "n n"],
    sizes: Sequence[int],
    *,
    resamples: int = 100,
    confidence: float = 0.95,
) -> KurtosisCurve:
    """How the kurtosis of P settles as more facts are measured, with bootstrap intervals.

    Two things are told of each size. Random subsets without replacement say what a scan of so many
    of these facts would have found; their band closes at n, where there is but one subset. A
    bootstrap, which draws as many facts with replacement as `kurtosis_interval` does, says how far
    a sample of so many facts can be from another; its band stays open.

    Args:
      rng: a random key.
      superposition: P, `(n, n)`, of three facts or more; its diagonal is ignored.
      sizes: numbers of facts, each from 3 to n.
      resamples: subsets and resamples of each size.
      confidence: of the bootstrap intervals.

    Returns:
      A `KurtosisCurve`, its fields in the order of the sizes.

    Raises:
      ValueError: if `superposition` is not a square matrix of three facts or more, a size is out
        of range, `resamples` is below 2, or `confidence` not between 0 and 1.

    Examples:
      >>> import jax
      >>> rng = jax.random.key(0)
      >>> curve = kurtosis_convergence(rng, jax.random.normal(rng, (64, 64)), (16, 32, 64))
      >>> bool(curve.low[0] < curve.mean[0] < curve.high[0]), bool(curve.low[2] == curve.high[2])
      (True, True)

    Reference: Hu et al. 2024 (arXiv 2408.07413), appendix C.
    """
    rng, superposition, sizes = _rng_first(rng, superposition, sizes)
    p = as_real("superposition", superposition, wide=True)
    if p.ndim != 2 or p.shape[0] != p.shape[1] or p.shape[0] < 3:
        raise ValueError(
            f"superposition: expected a square matrix of three or more facts, found shape {p.shape}"
        )
    _check_draws(resamples, confidence)
    n = len(p)
    if not sizes or not all(3 <= size <= n for size in sizes):
        raise ValueError(f"sizes: expected numbers of facts from 3 to {n}, found {list(sizes)}")
    found = _curve(p, rng, jnp.asarray(sizes, jnp.int32), resamples)
    low, high = _quantiles(found[0], 0.05)
    lower, upper = _quantiles(found[1], (1 - confidence) / 2)
    most = jnp.nanmax(found[0], axis=1)  # about it, the mean of equal numbers is that very number
    mean = most + jnp.nanmean(found[0] - most[:, None], axis=1)
    return KurtosisCurve(mean, low, high, lower, upper)


def _rng_first(*given: Any) -> tuple[Any, ...]:
    """The arguments, the random key first: it stood last, which is still taken, with a warning."""
    *others, last = given
    dtype, shape = getattr(last, "dtype", None), getattr(last, "shape", None)
    typed = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
    if not typed and (dtype, shape) != (jnp.dtype("uint32"), (2,)):
        return given
    message = "rng: expected the random key first, found it last, as it once stood; move it"
    warnings.warn(message, DeprecationWarning, stacklevel=3)
    return last, *others


def _check_draws(resamples: int, confidence: float) -> None:
    if resamples < 2:
        raise ValueError(f"resamples: expected at least 2, found {resamples}; take a thousand")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence: expected a number between 0 and 1, found {confidence}")


def _quantiles(values: Array, tail: float) -> Array:
    """The two values beyond which this share of each row lies; NaN among them is left out."""
    return jnp.nanquantile(values, jnp.asarray([tail, 1 - tail], values.dtype), axis=-1)


@functools.partial(jax.jit, static_argnames="resamples")
def _resampled(p: Array, rng: Array, resamples: int) -> Array:
    """Kurtosis of each resample, `(resamples,)`."""
    n = len(p)
    rngs = jax.random.split(rng, resamples)
    return _over_draws(p, rngs, lambda rng: draw_counts(rng, n), _BATCH)


@functools.partial(jax.jit, static_argnames="resamples")
def _curve(p: Array, rng: Array, sizes: Array, resamples: int) -> Array:
    """Kurtosis of random subsets, then of resamples, of each size: `(2, s, resamples)`.

    All in one loop, as a loop for each size would have to be compiled for each.
    """
    n, places = len(p), jnp.arange(len(p), dtype=jnp.int32)

    def draw(drawn: tuple[Array, Array, Array]) -> Array:
        rng, size, replaced = drawn
        first = (places < size).astype(jnp.int32)
        again = jnp.zeros(n, jnp.int32).at[jax.random.randint(rng, (n,), 0, n)].add(first)
        return jnp.where(replaced, again, jax.random.permutation(rng, first))

    rngs = jax.vmap(lambda size: jax.random.split(jax.random.fold_in(rng, size), resamples))(sizes)
    shape = (2, len(sizes), resamples)
    replaced = jnp.broadcast_to(jnp.arange(2)[:, None, None] == 1, shape)
    drawn = (
        jnp.broadcast_to(rngs, shape),
        jnp.broadcast_to(sizes[:, None], shape),
        replaced,
    )
    flat = jax.tree.map(lambda x: x.reshape(-1), drawn)
    return _over_draws(p, flat, draw, resamples).reshape(shape)


def _over_draws(p: Array, draws: Any, draw: Callable[[Any], Array], batch: int) -> Array:
    """Kurtosis of P under each draw of how often each fact counts, `(draws,)`."""
    off = ~jnp.eye(len(p), dtype=bool)
    whole = moments(p, where=off)
    # Centred, so that nothing cancels; scaled, so that no fourth power overflows or vanishes.
    scaled = jnp.where(off, (p - whole.mean) / jnp.sqrt(whole.variance), 0)
    powers = (off.astype(scaled.dtype), scaled, scaled**2, scaled**3, scaled**4)

    def kurtosis(one: Any) -> Array:
        weights = draw(one).astype(scaled.dtype)
        count, *sums = (matmul(weights, power) @ weights for power in powers)
        found = from_power_sums(count, sums)
        # Of two facts alone the entries may all be equal: what is left of m2 is rounding.
        constant = found.m2 <= 32 * jnp.finfo(scaled.dtype).eps * sums[1]
        return jnp.where(constant, jnp.nan, found.kurtosis)

    return jax.lax.map(kurtosis, draws, batch_size=batch)


def draw_counts(rng: PRNGKeyArray, n: int) -> Int[Array, " n"]:
    """How often each of n facts is among n drawn with replacement, `(n,)` int.

    Examples:
      >>> import jax
      >>> int(draw_counts(jax.random.key(0), 10).sum())
      10
    """
    return jnp.bincount(jax.random.randint(rng, (n,), 0, n), length=n)
