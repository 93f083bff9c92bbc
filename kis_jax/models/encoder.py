"""An encoder of BERT's kind: each token sees all others; layers stacked and scanned."""

from __future__ import annotations

import functools
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from kis_jax.models.attention import Attention
from kis_jax.models.config import EncoderConfig
from kis_jax.models.mlp import MLP
from kis_jax.models.norms import make_norm
from kis_jax.models.stack import (
    Shift,
    Tap,
    check_tokens,
    make_embedding,
    make_linear,
    positions_of,
    precision,
    scan_layers,
    stack,
)


class EncoderBlock(nnx.Module):
    """One layer: attention and MLP, a norm after each is added to the residual stream."""

    def __init__(self, config: EncoderConfig, dtype: DTypeLike, *, rngs: nnx.Rngs):
        """Makes the layer, its parameters in `dtype`."""
        linear = make_linear(dtype, rngs)
        norm = functools.partial(make_norm, config, dtype=dtype)
        self.attention = Attention(config, linear=linear, norm=norm)
        self.attention_norm = norm()
        self.mlp = MLP(config, linear=linear)
        self.mlp_norm = norm()

    def __call__(self, x: Array, mask: Array, shift: Array | None = None) -> tuple[Array, Array]:
        """The residual stream after this layer, and the layer's MLP keys."""
        x = self.attention_norm(x + self.attention(x, mask))
        values, keys = self.mlp(x)
        if shift is not None:
            values = values + shift.astype(values.dtype)
        return self.mlp_norm(x + values), keys


class Encoder(nnx.Module):
    """An encoder without a head, its layers stacked and run by one scan as a `Decoder`'s are.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from kis_jax.models.families import bert
      >>> config = bert.read_config(dict(vocab_size=50, hidden_size=8, num_hidden_layers=3,
      ...     num_attention_heads=2, intermediate_size=20, max_position_embeddings=16))
      >>> model = Encoder(config, rngs=nnx.Rngs(0))
      >>> tokens = jnp.array([[3, 1, 4, 1, 5]])
      >>> hidden, last_keys = model(tokens, tap=lambda keys, mask: keys[:, -1])
      >>> hidden.shape, last_keys.shape
      ((1, 5, 8), (3, 1, 20))
    """

    def __init__(
        self, config: EncoderConfig, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs
    ) -> None:
        """Makes a model with random parameters, normal with standard deviation 0.02.

        Args:
          config: its shape.
          dtype: of parameters and computation, float32 or bfloat16.
          rngs: of the initial parameters.
        """
        self.config = config
        self.dtype = jnp.dtype(dtype)
        embedding = make_embedding(dtype, rngs)
        self.embedding = embedding(config.vocab_size, config.width)
        self.positions = embedding(config.position_offset + config.context_length, config.width)
        if config.token_types:
            self.token_types = embedding(config.token_types, config.width)
        self.embedding_norm = make_norm(config, dtype=dtype)
        self.blocks = stack(
            lambda rngs: EncoderBlock(config, dtype, rngs=rngs), config.num_layers, rngs=rngs
        )

    def __call__(
        self,
        tokens: Array,
        mask: Array | None = None,
        *,
        tap: Tap | None = None,
        shift: Shift | None = None,
    ) -> Any:
        """Hidden states after the last layer; with a tap, also what it takes from every layer.

        Args:
          tokens: `(b, t)` int, t at most the context length, special tokens included; all of the
            first token type.
          mask: `(b, t)` bool or 0 and 1, False at padding, on either side; None if there is none.
            Positions count the tokens that the mask admits.
          tap: a function of one layer's MLP keys `(b, t, d)` and the mask, run inside the scan
            over layers.
          shift: added to one layer's MLP output.

        Returns:
          Hidden states `(b, t, width)` in float32; with a tap `(hidden, tapped)`, where `tapped`
          holds the tap's results stacked over layers.

        Raises:
          ValueError: if `tokens` is not a matrix of integers, or longer than the context, or
            `mask` has another shape.
        """
        tokens = jnp.asarray(tokens)
        mask = jnp.ones(tokens.shape, bool) if mask is None else jnp.asarray(mask).astype(bool)
        x, tapped = self.run(self.embed(tokens, mask), mask, tap=tap, shift=shift)
        hidden = x.astype(jnp.float32)
        return hidden if tap is None else (hidden, tapped)

    def embed(self, tokens: Array, mask: Array) -> Array:
        """The residual stream before the first layer, `(b, t, width)`."""
        check_tokens(tokens, mask, self.config)
        places = positions_of(mask) + self.config.position_offset
        x = self.embedding(tokens) + self.positions(places)
        if self.config.token_types:
            x = x + self.token_types(jnp.zeros_like(tokens))
        return self.embedding_norm(x)

    def run(
        self,
        x: Array,
        mask: Array,
        *,
        tap: Tap | None = None,
        shift: Shift | None = None,
    ) -> tuple[Array, Any]:
        """Runs all layers over a residual stream: the stream after them, and what was tapped."""

        def run_block(
            block: EncoderBlock, x: Array, own: None, shift: Array | None
        ) -> tuple[Array, Array]:
            return block(x, mask, shift)

        with precision(self.dtype):
            return scan_layers(run_block, self.blocks, x, mask, tap=tap, shift=shift)
