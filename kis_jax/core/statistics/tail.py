"""How heavy the tail of a distribution is."""

from __future__ import annotations

import operator

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Real

from kis_jax.core.arrays.checks import as_real, or_nan


def tail_index(values: Real[Array, "*batch n"], top: int) -> Float[Array, "*batch"]:
    r"""Hill's estimate of the tail index of the absolute values of a sample.

    $\hat\alpha = k / \sum_{i \le k} \ln (x_{(i)} / x_{(k + 1)})$ with $x_{(1)} \ge x_{(2)} \ge
    \dots$ the falling absolute values and k = `top`: the exponent of a power law
    $\Pr(|X| > x) \propto x^{-\alpha}$ beyond the threshold $x_{(k + 1)}$. Moments of order
    $\alpha$ and above do not exist under such a law: with $\alpha < 4$ its kurtosis is infinite.

    Args:
      values: `(..., n)` real.
      top: how many of the greatest lie beyond the threshold, 1 to n - 1.

    Returns:
      `(...)`, positive; infinity if all of them are equal. Zeros do not count: NaN if fewer than
      two values are not zero, or if one is not finite.

    Raises:
      ValueError: if `top` is not between 1 and n - 1.

    Examples:
      >>> import jax.numpy as jnp
      >>> float(tail_index(jnp.array([0.1, -8.0, 4.0, 2.0]), top=2))
      0.96...

    Reference: Hill 1975, A simple general approach to inference about the tail of a distribution
    (Annals of Statistics 3).
    """
    values, top = as_real("values", values, wide=True), operator.index(top)
    if not 1 <= top < (values.shape[-1] if values.ndim else 0):
        raise ValueError(
            f"top: expected 1 to n - 1 of the n values along the last axis of shape "
            f"{values.shape}, found {top}; the next value is the threshold"
        )
    greatest = jax.lax.top_k(jnp.abs(values), top + 1)[0]
    sound = jnp.all(jnp.isfinite(values), axis=-1)
    return or_nan(sound, hill(greatest))


def hill(strengths: Real[Array, "*batch k"]) -> Float[Array, "*batch"]:
    """Hill's estimate over falling values `(..., k + 1)`, the last that is not zero its threshold.

    Examples:
      >>> import jax.numpy as jnp
      >>> float(hill(jnp.array([8.0, 4.0, 2.0, 0.0])))
      0.96...
    """
    there = strengths > 0
    threshold = jnp.min(jnp.where(there, strengths, jnp.inf), -1, keepdims=True)
    logarithms = jnp.log(jnp.where(there, strengths / threshold, 1))
    count = jnp.sum(there, -1).astype(strengths.dtype) - 1
    return or_nan(count > 0, count) / jnp.sum(logarithms, -1)
