"""The bulk of superposition, in units in which models of any width can be compared."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, PRNGKeyArray, Real

from kis_jax.core.arrays.checks import as_real, known, or_nan
from kis_jax.core.arrays.mesh import whole
from kis_jax.core.arrays.products import inner
from kis_jax.core.arrays.pytrees import exported
from kis_jax.core.statistics.moments import Moments, moments

# The standard deviation of a normal distribution over its median absolute deviation.
_NORMAL = 1.482602218505602
# A normal bulk has two entries in a thousand million beyond.
_DEVIATIONS = 6.0


@exported
class Bulk(NamedTuple):
    """How wide the bulk of P is, and how much lies beyond it.

    Attributes:
      bulk_std_times_sqrt_rank: `()`, 1 for unrelated directions.
      tail_fraction: `()`, the share of entries beyond six robust standard deviations.
    """

    bulk_std_times_sqrt_rank: Array
    tail_fraction: Array


def bulk(
    superposition: Float[Array, "n n"],
    rank: Real[ArrayLike, ""],
    *,
    where: Bool[ArrayLike, "n n"] | None = None,
) -> Bulk:
    r"""Width of the bulk of P against that of unrelated directions, and the share beyond it.

    Of whitened keys $z_i$ in r dimensions, $p_{ij} = \cos(z_i, z_j)\, |z_j| / |z_i|$. The cosine
    of two directions that have nothing to do with each other is a coordinate of a random point of
    the unit sphere: the r squares of the coordinates sum to 1, so each has mean $1 / r$, and the
    cosine has mean 0 and standard deviation $1 / \sqrt r$ whatever the model is. So the standard
    deviation of the bulk times $\sqrt r$ is 1 for unrelated facts of equal norms, in any model;
    above 1, the bulk itself is in superposition.

    Kurtosis cannot be compared so: it is the fourth power of the few related pairs over the
    squared variance of all, so that it grows with r while the pairs stay as they are.

    The standard deviation is a robust one, 1.4826 times the median absolute deviation from the
    median, which the related pairs do not move; an entry more than six of them from the median is
    of the tail.

    Args:
      superposition: P, `(n, n)`; its diagonal is ignored.
      rank: r of the whitener, see `Whitener.rank`.
      where: `(n, n)` bool, the entries that count; all off the diagonal if None.

    Returns:
      A `Bulk`; NaN without entries, or if one of them is not finite. Where more than half of the
      entries are equal, the width is 0 and all that differ from them are of the tail.

    Raises:
      ValueError: if `superposition` is not a square matrix of two facts or more.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> p = isotropic_superposition(jax.random.key(0), jnp.ones(300), rank=100)
      >>> found = bulk(p, 100)
      >>> round(float(found.bulk_std_times_sqrt_rank), 2), float(found.tail_fraction)
      (1.0, 0.0)
    """
    p, counted = _entries(superposition, where)
    centre, deviation = _centre_and_std(p, counted)
    root = jnp.sqrt(jnp.asarray(rank, p.dtype))
    beyond = counted & (jnp.abs(p - centre) > _DEVIATIONS * deviation)
    share = jnp.sum(beyond, dtype=p.dtype) / jnp.sum(counted, dtype=p.dtype)
    return Bulk(deviation * root, or_nan(~jnp.isnan(deviation), share))


def kurtosis_at_rank(
    superposition: Float[Array, "n n"],
    rank: Real[ArrayLike, ""],
    other: Real[ArrayLike, "*ranks"],
) -> Float[Array, "*ranks"]:
    r"""The kurtosis that P would have in another rank, its related pairs as they are.

    What a law of kurtosis in the width of models has to be held against: entries within six robust
    standard deviations of the median are those of unrelated directions, whose width is
    $\propto 1 / \sqrt r$, and are scaled by $\sqrt{r / r'}$; those beyond, the related pairs, stay.
    Nothing about how facts are stored has changed, and yet kurtosis grows, up to $r'^2$ while the
    bulk carries the variance.

    Args:
      superposition: P, `(n, n)`; its diagonal is ignored.
      rank: r of the whitener that it was measured with.
      other: r', of any shape.

    Returns:
      Excess kurtosis at each r', of the shape of `other`.

    Raises:
      ValueError: if `superposition` is not a square matrix of two facts or more.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> p = isotropic_superposition(jax.random.key(0), jnp.ones(50), rank=100)
      >>> kurtosis_at_rank(p.at[3, 5].set(0.9), 100, jnp.array([100, 400])).round()
      Array([ 2., 33.], dtype=float32)
    """
    p, counted = _entries(superposition, None)
    centre, deviation = _centre_and_std(p, counted)
    beyond = jnp.abs(p - centre) > _DEVIATIONS * deviation
    within = moments(p - centre, where=counted & ~beyond)
    related = moments(p - centre, where=counted & beyond)
    scales = jnp.sqrt(jnp.asarray(rank, p.dtype) / jnp.asarray(other, p.dtype))
    whole = jax.vmap(lambda scale: _scaled(within, scale).merge(related).kurtosis)
    return whole(scales.reshape(-1)).reshape(scales.shape)


def isotropic_superposition(
    rng: PRNGKeyArray, norms: Float[Array, " n"], rank: int
) -> Float[Array, "n n"]:
    r"""P of random directions: what is left of superposition when no key has to do with another.

    Directions are drawn uniformly from the sphere in whitening space, and each is given the norm
    of a key: $p_{ij} = u_i^\top u_j\, |z_j| / |z_i|$. With norms all alike, its entries have the
    standard deviation $1 / \sqrt r$ and the excess kurtosis $-6 / (r + 2)$; norms that differ make
    the tails heavier, without any direction being related to another.

    Args:
      rng: a random key.
      norms: of the whitened keys, `(n,)`.
      rank: r, the number of dimensions.

    Returns:
      `(n, n)` in the dtype of the norms, with diagonal 1.

    Raises:
      ValueError: if `rank` is not positive, or `norms` not a vector.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> isotropic_superposition(jax.random.key(0), jnp.array([1.0, 2.0]), rank=1).round(2)
      Array([[1. , 2. ],
             [0.5, 1. ]], dtype=float32)
    """
    norms = jnp.asarray(norms)
    if norms.ndim != 1 or rank < 1:
        raise ValueError(
            f"norms, rank: expected norms of shape (n,) and a positive rank, found {norms.shape} "
            f"and {rank}"
        )
    drawn = jax.random.normal(rng, (norms.shape[0], rank), norms.dtype)
    unit = drawn / jnp.linalg.norm(drawn, axis=1, keepdims=True)
    return inner(unit, unit) * norms[None] / norms[:, None]


def _entries(superposition: Array, where: ArrayLike | None) -> tuple[Array, Array]:
    """P, and which of its entries count."""
    p = whole(as_real("superposition", superposition, wide=True))
    if p.ndim != 2 or p.shape[0] != p.shape[1] or (known(p.shape[0]) and p.shape[0] < 2):
        raise ValueError(
            f"superposition: expected a square matrix of two or more facts, found shape {p.shape}"
        )
    counted = ~jnp.eye(p.shape[0], dtype=bool)
    return p, counted if where is None else counted & jnp.asarray(where, bool)


def _centre_and_std(p: Array, counted: Array) -> tuple[Array, Array]:
    """Median of the entries that count, and their robust standard deviation; NaN for a NaN."""
    sound = jnp.all(jnp.isfinite(p) | ~counted)
    centre = _median(p, counted)
    deviation = _NORMAL * _median(jnp.abs(p - centre), counted)
    return or_nan(sound, centre), or_nan(sound, deviation)


@jax.jit
def _median(p: Array, counted: Array) -> Array:
    return jnp.nanmedian(jnp.where(counted, p, jnp.nan))


def _scaled(sample: Moments, scale: Array) -> Moments:
    """The moments of a sample that is multiplied by a number."""
    return dataclasses.replace(
        sample,
        mean=sample.mean * scale,
        m2=sample.m2 * scale**2,
        m3=sample.m3 * scale**3,
        m4=sample.m4 * scale**4,
    )
