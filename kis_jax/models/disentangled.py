"""Disentangled attention: what tokens say and how far apart they are, weighed side by side."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from kis_jax.models.attention import Past
from kis_jax.models.config import EncoderConfig
from kis_jax.models.relative import Distances, RelativePositions


class DisentangledAttention(nnx.Module):
    r"""Self-attention whose logits add up content and distance.

    $a_{ij} = s\,(q_i \cdot k_j + q_i \cdot K_{\delta(i,j)} + k_j \cdot Q_{\delta(i,j)})$, where
    $\delta(i, j)$ is the bucket of the distance $i - j$, and K and Q are projections of one table
    of learned vectors, that all layers share.

    Reference: He et al. 2021 (arXiv 2006.03654), eq. 4; buckets as in He et al. 2023 (2111.09543).
    """

    def __init__(
        self,
        config: EncoderConfig,
        relative: RelativePositions,
        *,
        linear: Callable[..., nnx.Linear],
    ):
        """Makes the projections of tokens, and those of distances where they are not the same."""
        heads = config.num_heads * config.head_dim
        self.head_dim = config.head_dim
        self.scale = config.attention_scale
        self.relative = relative
        self.query = linear(config.width, heads, use_bias=config.qkv_bias)
        self.key = linear(config.width, heads, use_bias=config.qkv_bias)
        self.value = linear(config.width, heads, use_bias=config.qkv_bias)
        self.output = linear(heads, config.width, use_bias=config.output_bias)
        if not relative.shared and relative.to_position:
            self.position_key = linear(config.width, heads, use_bias=config.qkv_bias)
        if not relative.shared and relative.from_position:
            self.position_query = linear(config.width, heads, use_bias=config.qkv_bias)

    def __call__(self, x: Array, mask: Array, distances: Distances) -> tuple[Array, Past]:
        """What each token takes from those that it sees, `(b, t, width)`, and their own past.

        Args:
          x: `(b, t, width)`.
          mask: `(b, t)` bool, False at padding, which no token sees.
          distances: between the tokens.
        """
        rows = distances.rows
        query, key, value = (self._split(part(x)) for part in (self.query, self.key, self.value))
        logits = _products("bqhd,bkhd->bhqk", query, key)
        if self.relative.to_position:
            project = self.key if self.relative.shared else self.position_key
            asked = _products("bqhd,rhd->bhqr", query, self._split(project(distances.vectors)))
            logits += jnp.take_along_axis(asked, rows[:, None], axis=3)
        if self.relative.from_position:
            project = self.query if self.relative.shared else self.position_query
            asked = _products("bkhd,rhd->bhkr", key, self._split(project(distances.vectors)))
            # Of each key a row, of each query a column: turned, as `rows` has them.
            found = jnp.take_along_axis(asked, jnp.swapaxes(rows, 1, 2)[:, None], axis=3)
            logits += jnp.swapaxes(found, 2, 3)
        logits = jnp.where(mask[:, None, None], logits * self.scale, jnp.finfo(logits.dtype).min)
        weights = jax.nn.softmax(logits, axis=-1).astype(value.dtype)
        mixed = jnp.einsum("bhqk,bkhd->bqhd", weights, value)
        return self.output(mixed.reshape(*x.shape[:-1], -1)), Past(key, value)

    def _split(self, x: Array) -> Array:
        """Features as heads, `(..., heads, head_dim)`."""
        return x.reshape(*x.shape[:-1], -1, self.head_dim)


def _products(subscripts: str, left: Array, right: Array) -> Array:
    """Inner products of bfloat16 summed, and kept, in float32: a softmax is to follow."""
    return jnp.einsum(subscripts, left, right, preferred_element_type=jnp.float32)
