"""A power law through a few models, and how sure its exponent is."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.special import betainc
from jax.typing import ArrayLike
from jaxtyping import Real

from kis_jax.core.arrays.checks import or_nan
from kis_jax.core.arrays.pytrees import exported

_BISECTIONS = 60


@exported
class PowerLaw(NamedTuple):
    r"""A fitted law $y = e^a x^b$.

    Attributes:
      exponent: `()`, b.
      logarithm: `()`, a, the natural logarithm of the factor.
      lower: `()`, lower limit of the exponent's interval; NaN with fewer than three points.
      upper: `()`, its upper limit.
      explained: `()`, the share of the variance of $\ln y$ that the law explains, R squared.
    """

    exponent: Array
    logarithm: Array
    lower: Array
    upper: Array
    explained: Array


def fit_power_law(
    x: Real[ArrayLike, " n"], y: Real[ArrayLike, " n"], *, confidence: float = 0.95
) -> PowerLaw:
    r"""Fits $\ln y = a + b \ln x$ by least squares, with a t interval for b.

    Args:
      x: positive, `(n,)`, at least two of them different.
      y: positive, `(n,)`.
      confidence: of the interval, which holds the exponent so often where the errors of $\ln y$
        are normal, independent and of one size. Models of one family, trained on one text, are
        hardly independent: take it for the least that is not known.

    Returns:
      A `PowerLaw`. Two points give an exponent and no interval. NaN where all x are equal.

    Raises:
      ValueError: if the two are not vectors of one length of at least two, or `confidence` is not
        between 0 and 1. Numbers that are not positive give NaN.

    Examples:
      >>> import jax.numpy as jnp
      >>> law = fit_power_law(jnp.array([1.0, 2.0, 4.0]), jnp.array([3.0, 12.0, 48.0]))
      >>> round(float(law.exponent), 3), round(float(jnp.exp(law.logarithm)), 3)
      (2.0, 3.0)
    """
    x, y = (
        value if jnp.issubdtype(value.dtype, jnp.floating) else value.astype(float)
        for value in (jnp.asarray(x), jnp.asarray(y))
    )
    if x.ndim != 1 or x.shape != y.shape or len(x) < 2:
        raise ValueError(
            f"x, y: expected two vectors of one length of at least 2, found shapes {x.shape} and "
            f"{y.shape}; a law needs two models"
        )
    if not 0 < confidence < 1:
        raise ValueError(f"confidence: expected a number between 0 and 1, found {confidence}")
    across, up = jnp.log(x), jnp.log(y)
    dx, dy = across - jnp.mean(across), up - jnp.mean(up)
    squares = or_nan(jnp.ptp(across) > 0, jnp.sum(dx * dx))
    exponent = jnp.sum(dx * dy) / squares
    rest, freedom = jnp.sum((dy - exponent * dx) ** 2), len(x) - 2
    if freedom:
        half = jnp.sqrt(rest / freedom / squares) * _t_quantile(confidence, freedom, x.dtype)
    else:
        half = jnp.full((), jnp.nan, x.dtype)
    return PowerLaw(
        exponent,
        jnp.mean(up) - exponent * jnp.mean(across),
        exponent - half,
        exponent + half,
        1 - rest / jnp.sum(dy * dy),
    )


def _t_quantile(confidence: float, freedom: int, dtype: jnp.dtype) -> Array:
    """The t beyond which, on both sides together, the rest of Student's distribution lies."""
    rest = jnp.asarray(1 - confidence, dtype)
    half, degrees = jnp.asarray(0.5, dtype), jnp.asarray(freedom, dtype)

    def beyond(share: Array) -> Array:
        """The probability of a greater t, where the degrees over (degrees + t t) is this share."""
        return betainc(degrees / 2, half, share)

    def step(_: Array, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = (low + high) / 2
        above = beyond(middle) > rest
        return jnp.where(above, low, middle), jnp.where(above, middle, high)

    ends = (jnp.zeros((), dtype), jnp.ones((), dtype))
    share = jax.lax.fori_loop(0, _BISECTIONS, step, ends)[1]
    return jnp.sqrt(degrees * (1 - share) / share)
