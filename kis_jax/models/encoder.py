"""An encoder of BERT's kind: each token sees all others; layers stacked and scanned."""

from __future__ import annotations

import functools

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from kis_jax.models.attention import Attention, Past
from kis_jax.models.config import EncoderConfig
from kis_jax.models.mlp import MLP
from kis_jax.models.norms import make_norm
from kis_jax.models.positions import positions_of
from kis_jax.models.scanning import Glimpse, RunBlock
from kis_jax.models.stack import Stacked, make_embedding, make_linear


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

    def __call__(self, x: Array, mask: Array, shift: Array | None = None) -> tuple[Array, Glimpse]:
        """The residual stream after this layer, and what the layer shows of itself."""
        attended, own = self.attention(x, mask)
        rest = self.attention_norm(x + attended)
        values, keys = self.mlp(rest)
        shifted = values if shift is None else values + shift.astype(values.dtype)
        return self.mlp_norm(rest + shifted), Glimpse(keys, values, rest, own)


class Encoder(Stacked[EncoderConfig]):
    """An encoder without a head, which gives hidden states after the last layer, `(b, t, width)`.

    Its tokens include the special ones, and are all of the first token type.

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
        super().__init__(config, EncoderBlock, dtype=dtype, rngs=rngs)
        embedding = make_embedding(dtype, rngs)
        self.positions = embedding(config.position_offset + config.context_length, config.width)
        if config.token_types:
            self.token_types = embedding(config.token_types, config.width)
        self.embedding_norm = make_norm(config, dtype=dtype)

    def embed(self, tokens: Array, mask: Array) -> Array:
        """The residual stream before the first layer, `(b, t, width)`."""
        places = positions_of(mask) + self.config.position_offset
        x = self.embedding(tokens) + self.positions(places)
        if self.config.token_types:
            x = x + self.token_types(jnp.zeros_like(tokens))
        return self.embedding_norm(x)

    def layers(self, mask: Array) -> tuple[RunBlock, None]:
        """What runs a layer; none has anything of its own."""

        def run_block(
            block: EncoderBlock, x: Array, own: None, shift: Array | None, past: Past | None
        ) -> tuple[Array, Glimpse]:
            if past is not None:
                raise ValueError(
                    "past: expected None for an encoder, whose tokens all see each other, so that "
                    "nothing of the earlier ones can be kept, found keys and values of attention; "
                    "run the whole text"
                )
            return block(x, mask, shift)

        return run_block, None

    def finish(self, x: Array) -> Array:
        """The residual stream after the last layer."""
        return x.astype(jnp.float32)
