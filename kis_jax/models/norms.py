"""Norms of the residual stream, of queries and of keys; computed in float32 in every dtype."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from kis_jax.models.config import ModelConfig


class RMSNorm(nnx.Module):
    """Divides by the root mean square over the last axis, then scales each feature."""

    def __init__(self, width: int, *, epsilon: float, offset: float, dtype: DTypeLike):
        """Makes a norm that scales by `offset + scale`, one at first."""
        self.epsilon = epsilon
        self.offset = offset
        self.scale = nnx.Param(jnp.full(width, 1.0 - offset, dtype))

    def __call__(self, x: Array) -> Array:
        """Of the shape and dtype of `x`."""
        wide = x.astype(jnp.float32)
        mean_square = jnp.mean(jnp.square(wide), axis=-1, keepdims=True)
        scale = self.scale[...].astype(jnp.float32) + self.offset
        return (wide * jax.lax.rsqrt(mean_square + self.epsilon) * scale).astype(x.dtype)


class LayerNorm(nnx.Module):
    """Subtracts the mean and divides by the deviation over the last axis, then scales and shifts.

    Flax's own mixes bfloat16 with float32 by itself, which strict dtype promotion refuses.
    """

    def __init__(self, width: int, *, epsilon: float, dtype: DTypeLike):
        """Makes a norm with scales of one and biases of zero."""
        self.epsilon = epsilon
        self.scale = nnx.Param(jnp.ones(width, dtype))
        self.bias = nnx.Param(jnp.zeros(width, dtype))

    def __call__(self, x: Array) -> Array:
        """Of the shape and dtype of `x`."""
        wide = x.astype(jnp.float32)
        centred = wide - jnp.mean(wide, axis=-1, keepdims=True)
        # A mean of squared deviations: E[x^2] - E[x]^2 cancels in float32.
        variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
        scale, bias = self.scale[...].astype(jnp.float32), self.bias[...].astype(jnp.float32)
        return (centred * (jax.lax.rsqrt(variance + self.epsilon) * scale) + bias).astype(x.dtype)


def make_norm(
    config: ModelConfig, *, dtype: DTypeLike, width: int | None = None
) -> LayerNorm | RMSNorm:
    """A norm of the model's kind over `width` features, those of the residual stream if None."""
    width = config.width if width is None else width
    if config.norm == "layer":
        return LayerNorm(width, epsilon=config.norm_epsilon, dtype=dtype)
    offset = 1.0 if config.norm == "rms_offset" else 0.0
    return RMSNorm(width, epsilon=config.norm_epsilon, offset=offset, dtype=dtype)
