"""A convolution over neighbouring tokens, beside the first layer of an encoder."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from kis_jax.models.config import Convolution, EncoderConfig
from kis_jax.models.mlp import ACTIVATIONS
from kis_jax.models.norms import LayerNorm, RMSNorm


class NeighborMixing(nnx.Module):
    """Mixes each token's embedding with its neighbours', and adds that to the first layer's output.

    It tells the model of n-grams, of which attention by buckets of distance knows little.

    Reference: the n-gram induced encoding of DeBERTa v2 (He et al. 2021, arXiv 2006.03654).
    """

    def __init__(
        self,
        config: EncoderConfig,
        convolution: Convolution,
        *,
        norm: Callable[..., LayerNorm | RMSNorm],
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        """Makes the kernel `(size, width, width)`, from inputs to outputs, its bias and a norm."""
        shape = (convolution.size, config.width, config.width)
        self.activation = convolution.activation
        self.kernel = nnx.Param(nnx.initializers.normal(0.02)(rngs.params(), shape, dtype))
        self.bias = nnx.Param(jnp.zeros(config.width, dtype))
        self.norm = norm()

    def __call__(self, embedded: Array, x: Array, mask: Array) -> Array:
        """The stream after the first layer, `(b, t, width)`.

        Args:
          embedded: the stream before the first layer, `(b, t, width)`, zero at padding.
          x: what the first layer makes of it.
          mask: `(b, t)` bool, False at padding.
        """
        mixed = jax.lax.conv_general_dilated(
            embedded,
            self.kernel[...],
            window_strides=(1,),
            padding="SAME",
            dimension_numbers=("NWC", "WIO", "NWC"),
        )
        zero = jnp.zeros((), mixed.dtype)
        mixed = jnp.where(mask[..., None], mixed + self.bias[...], zero)
        return self.norm(x + ACTIVATIONS[self.activation](mixed))
