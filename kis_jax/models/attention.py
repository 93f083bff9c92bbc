"""Self-attention: which tokens see which, and what they take from one another."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from kis_jax.models.config import ModelConfig
from kis_jax.models.norms import LayerNorm, RMSNorm
from kis_jax.models.positions import positions_of
from kis_jax.models.rotary import rotate


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Past:
    """Attention's keys and values of tokens that have been run, for those that follow to see.

    Attributes:
      keys: `(b, p, num_kv_heads, head_dim)`, turned by their positions; stacked over layers with
        one more axis in front.
      values: likewise.
    """

    keys: Array
    values: Array


class Attention(nnx.Module):
    """Multi-head self-attention; several heads may share one head of keys and values."""

    def __init__(
        self,
        config: ModelConfig,
        *,
        linear: Callable[..., nnx.Linear],
        dtype: DTypeLike,
        norm: Callable[..., LayerNorm | RMSNorm],
    ):
        """Makes the four projections, and sinks and norms where the model has them."""
        heads, shared = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
        self.head_dim = config.head_dim
        self.scale = config.attention_scale
        self.cap = config.attention_cap
        self.sinks = nnx.Param(jnp.zeros(config.num_heads, dtype)) if config.sinks else None
        self.causal = config.causal
        self.interleaved = config.rotary is not None and config.rotary.interleaved
        self.query = linear(config.width, heads, use_bias=config.qkv_bias)
        self.key = linear(config.width, shared, use_bias=config.qkv_bias)
        self.value = linear(config.width, shared, use_bias=config.qkv_bias)
        self.output = linear(heads, config.width, use_bias=config.output_bias)
        self.norm_over = config.query_key_norm
        if self.norm_over is not None:
            by_head = self.norm_over == "head"
            self.query_norm = norm(width=config.head_dim if by_head else heads)
            self.key_norm = norm(width=config.head_dim if by_head else shared)

    def __call__(
        self,
        x: Array,
        mask: Array,
        *,
        window: Array | None = None,
        rotation: tuple[Array, Array] | None = None,
        query_scale: Array | None = None,
        past: Past | None = None,
    ) -> tuple[Array, Past]:
        """What each token takes from those that it sees, `(b, t, width)`, and their own past.

        Args:
          x: `(b, t, width)`.
          mask: `(b, p + t)` bool, False at padding, which no token sees; of the p tokens of the
            past, then of these.
          window: `()` int: tokens further back than this, the token itself counted, are not seen.
          rotation: cosines and sines that turn queries and keys; see `Rotary.tables`.
          query_scale: factors on queries, `(b, t)`; see `Rotary.query_scale`.
          past: of earlier tokens of the same texts; None if there are none, p = 0.
        """
        query, key, value = self.query(x), self.key(x), self.value(x)
        if self.norm_over == "projection":
            query, key = self.query_norm(query), self.key_norm(key)
        query, key, value = map(self._split, (query, key, value))
        if self.norm_over == "head":
            query, key = self.query_norm(query), self.key_norm(key)
        if rotation is not None:
            query = rotate(query, *rotation, interleaved=self.interleaved)
            key = rotate(key, *rotation, interleaved=self.interleaved)
        if query_scale is not None:
            query = query * query_scale[..., None, None].astype(query.dtype)
        own = Past(key, value)
        seen = mask[:, None, None, :]
        earlier = mask.shape[1] - x.shape[1]
        if past is not None:
            key = jnp.concat([past.keys, key], axis=1)
            value = jnp.concat([past.values, value], axis=1)
        if window is not None:
            # Places in the text: there may be padding between the past and these tokens.
            place = positions_of(mask)
            seen = seen & (place[:, None, earlier:, None] - place[:, None, None] < window)
        plain = self.cap is None and self.sinks is None
        if self.causal and (earlier or not plain):
            seen = seen & jnp.tri(x.shape[1], mask.shape[1], earlier, dtype=bool)
        if plain:
            # It makes float32 logits of bfloat16 by itself, which a user may have forbidden.
            with jax.numpy_dtype_promotion("standard"):
                mixed = jax.nn.dot_product_attention(
                    query,
                    key,
                    value,
                    mask=seen,
                    scale=self.scale,
                    is_causal=self.causal and not earlier,
                )
        else:
            sinks = None if self.sinks is None else self.sinks[...]
            how = {"scale": self.scale, "cap": self.cap, "sinks": sinks}
            mixed = explicit_attention(query, key, value, seen, **how)
        return self.output(mixed.reshape(*x.shape[:-1], -1)), own

    def _split(self, x: Array) -> Array:
        """Features as heads, `(b, t, heads, head_dim)`."""
        return x.reshape(*x.shape[:-1], -1, self.head_dim)


def explicit_attention(
    query: Array,
    key: Array,
    value: Array,
    mask: Array,
    *,
    scale: float,
    cap: float | None = None,
    sinks: Array | None = None,
) -> Array:
    """Attention whose logits a tanh keeps within `-cap` to `cap`, or with sinks.

    Otherwise as `jax.nn.dot_product_attention`, which knows neither.

    Args:
      query: `(b, t, heads, head_dim)`.
      key: `(b, t, kv_heads, head_dim)`; each head is shared by `heads / kv_heads` in a row.
      value: likewise.
      mask: bool, broadcast to `(b, heads, t, t)`: which tokens (last axis) each token sees.
      scale: factor on the products, before the bound.
      cap: the bound; None for none.
      sinks: of each head the logit of attending to nothing, `(heads,)`; None if it cannot.
    """
    grouped = query.reshape(*query.shape[:2], key.shape[2], -1, query.shape[3])
    logits = jnp.einsum("btkgd,bskd->bkgts", grouped, key, preferred_element_type=jnp.float32)
    logits = logits * scale if cap is None else cap * jnp.tanh(logits * (scale / cap))
    logits = jnp.where(mask[:, :, None], logits, jnp.finfo(logits.dtype).min)
    if sinks is not None:
        own = sinks.astype(logits.dtype).reshape(key.shape[2], -1, 1, 1)
        own = jnp.broadcast_to(own, (*logits.shape[:-1], 1))
        logits = jnp.concat([logits, own], axis=-1)
    weights = jax.nn.softmax(logits, axis=-1)[..., : key.shape[1]]
    mixed = jnp.einsum("bkgts,bskd->btkgd", weights.astype(value.dtype), value)
    return mixed.reshape(query.shape)
