"""An encoder of BERT's kind: each token sees all others; layers stacked and scanned."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from kis_jax.models.attention import Attention, Past
from kis_jax.models.config import EncoderConfig
from kis_jax.models.convolution import NeighborMixing
from kis_jax.models.disentangled import DisentangledAttention
from kis_jax.models.mlp import MLP
from kis_jax.models.norms import make_norm
from kis_jax.models.positions import positions_of
from kis_jax.models.relative import Distances
from kis_jax.models.scanning import Glimpse, RunBlock
from kis_jax.models.stack import Stacked, make_embedding, make_linear


class EncoderBlock(nnx.Module):
    """One layer: attention and MLP, a norm after each is added to the residual stream."""

    def __init__(self, config: EncoderConfig, dtype: DTypeLike, *, rngs: nnx.Rngs):
        """Makes the layer, its parameters in `dtype`."""
        linear = make_linear(dtype, rngs)
        norm = functools.partial(make_norm, config, dtype=dtype)
        if config.relative is None:
            # Either is called with the stream and the mask; one with distances besides.
            self.attention: Any = Attention(config, linear=linear, dtype=dtype, norm=norm)
        else:
            self.attention = DisentangledAttention(config, config.relative, linear=linear)
        self.attention_norm = norm()
        self.mlp = MLP(config, linear=linear)
        self.mlp_norm = norm()

    def __call__(
        self,
        x: Array,
        mask: Array,
        shift: Array | None = None,
        distances: Distances | None = None,
    ) -> tuple[Array, Glimpse]:
        """The residual stream after this layer, and what the layer shows of itself.

        Args:
          x: the stream before it, `(b, t, width)`.
          mask: `(b, t)` bool, False at padding.
          shift: added to the MLP's output.
          distances: between tokens, where attention knows them.
        """
        given = (x, mask) if distances is None else (x, mask, distances)
        attended, own = self.attention(*given)
        rest = self.attention_norm(x + attended)
        values, keys = self.mlp(rest)
        shifted = values if shift is None else values + shift.astype(values.dtype)
        return self.mlp_norm(rest + shifted), Glimpse(keys, values, rest, own)


class Encoder(Stacked[EncoderConfig]):
    """An encoder without a head, which gives hidden states after the last layer, `(b, t, width)`.

    Its tokens include the special ones, and are all of the first token type.

    Examples:
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
        norm = functools.partial(make_norm, config, dtype=dtype)
        if config.learned_positions:
            self.positions = embedding(config.position_offset + config.context_length, config.width)
        if config.token_types:
            self.token_types = embedding(config.token_types, config.width)
        self.embedding_norm = norm()
        if config.relative is not None:
            self.distances = embedding(config.relative.rows, config.width)
            if config.relative.norm:
                self.distance_norm = norm()
        if config.convolution is not None:
            self.mixing = NeighborMixing(
                config, config.convolution, norm=norm, dtype=dtype, rngs=rngs
            )

    def embed(self, tokens: Array, mask: Array, types: Array | None = None) -> Array:
        """The residual stream before the first layer, `(b, t, width)`.

        Args:
          tokens: `(b, t)` int.
          mask: `(b, t)` bool, False at padding.
          types: `(b, t)` int, of each token, such as 0 for a question and 1 for its answer; all
            of the first type if None. A model without types leaves them alone.
        """
        x = self.embedding(tokens)
        if self.config.learned_positions:
            x = x + self.positions(positions_of(mask) + self.config.position_offset)
        if self.config.token_types:
            x = x + self.token_types(jnp.zeros_like(tokens) if types is None else types)
        x = self.embedding_norm(x)
        # What mixes neighbours must find nothing at padding.
        return x if self.config.convolution is None else x * mask[..., None].astype(x.dtype)

    def layers(self, mask: Array) -> tuple[RunBlock, Array | None]:
        """What runs a layer; where one differs, it is the first."""
        distances = self._distances(mask)
        mixes = self.config.convolution is not None

        def run_block(
            block: EncoderBlock,
            x: Array,
            first: Array | None,
            shift: Array | None,
            past: Past | None,
        ) -> tuple[Array, Glimpse]:
            if past is not None:
                raise ValueError(
                    "past: expected None for an encoder, whose tokens all see each other, so that "
                    "nothing of the earlier ones can be kept, found keys and values of attention; "
                    "run the whole text"
                )
            after, glimpse = block(x, mask, shift, distances)
            if first is not None:
                after = jax.lax.cond(first, lambda: self.mixing(x, after, mask), lambda: after)
            return after, glimpse

        return run_block, jnp.arange(self.config.num_layers) == 0 if mixes else None

    def _distances(self, mask: Array) -> Distances | None:
        """What attention is told of distances; None if that is nothing."""
        if self.config.relative is None:
            return None
        vectors = self.distances.embedding[...]
        if self.config.relative.norm:
            vectors = self.distance_norm(vectors)
        return Distances(vectors, self.config.relative.row_of(mask))

    def finish(self, x: Array) -> Array:
        """The residual stream after the last layer."""
        return x.astype(jnp.float32)
