"""A decoder-only transformer, read from its configuration; layers stacked and scanned."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from kis_jax.models.attention import Attention, Past
from kis_jax.models.config import DecoderConfig
from kis_jax.models.mlp import MLP
from kis_jax.models.norms import LayerNorm, RMSNorm, make_norm
from kis_jax.models.positions import positions_of
from kis_jax.models.scanning import Glimpse, RunBlock
from kis_jax.models.stack import Stacked, make_embedding, make_linear, precision


class Block(nnx.Module):
    """One layer: attention and MLP, added to the residual stream."""

    def __init__(self, config: DecoderConfig, dtype: DTypeLike, *, rngs: nnx.Rngs):
        """Makes the layer, its parameters in `dtype`."""
        linear = make_linear(dtype, rngs)
        norm = functools.partial(make_norm, config, dtype=dtype)
        self.parallel = config.parallel
        self.attention_norm = norm() if config.norms_before else None
        self.attention = Attention(config, linear=linear, norm=norm)
        self.attention_post_norm = norm() if config.norms_after else None
        self.mlp_norm = norm() if config.norms_before and not config.shared_norm else None
        self.mlp = MLP(config, linear=linear)
        self.mlp_post_norm = norm() if config.norms_after else None
        self.shared_norm = config.shared_norm

    def __call__(
        self,
        x: Array,
        mask: Array,
        shift: Array | None = None,
        *,
        window: Array | None = None,
        rotation: tuple[Array, Array] | None = None,
        past: Past | None = None,
    ) -> tuple[Array, Glimpse]:
        """The residual stream after this layer, and what the layer shows of itself.

        Args:
          x: the stream before it, `(b, t, width)`.
          mask: `(b, p + t)` bool, False at padding; see `Attention`.
          shift: added to what the MLP's second matrix writes, `(b, t, width)`.
          window: see `Attention`.
          rotation: see `Attention`.
          past: see `Attention`.
        """
        read = _through(self.attention_norm, x)
        attended, own = self.attention(read, mask, window=window, rotation=rotation, past=past)
        rest = x + _through(self.attention_post_norm, attended)
        source = x if self.parallel else rest
        values, keys = self.mlp(read if self.shared_norm else _through(self.mlp_norm, source))
        shifted = values if shift is None else values + shift.astype(values.dtype)
        return self.write(rest, shifted), Glimpse(keys, values, rest, own)

    def write(self, rest: Array, values: Array) -> Array:
        """The stream after this layer, from what its MLP's second matrix makes and the rest."""
        return rest + _through(self.mlp_post_norm, values)


class Decoder(Stacked[DecoderConfig]):
    """A decoder, which gives logits of the next token, `(b, t, v)`.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from kis_jax.models.families import gpt2
      >>> config = gpt2.read_config(dict(vocab_size=50, n_positions=16, n_embd=8, n_layer=3,
      ...     n_head=2))
      >>> model = Decoder(config, rngs=nnx.Rngs(0))
      >>> tokens = jnp.array([[3, 1, 4, 1, 5]])
      >>> logits, last_keys = model(tokens, tap=lambda keys, mask: keys[:, -1])
      >>> logits.shape, last_keys.shape
      ((1, 5, 50), (3, 1, 32))
    """

    def __init__(
        self, config: DecoderConfig, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs
    ) -> None:
        """Makes a model with random parameters, normal with standard deviation 0.02.

        Args:
          config: its shape.
          dtype: of parameters and computation, float32 or bfloat16.
          rngs: of the initial parameters.
        """
        super().__init__(config, Block, dtype=dtype, rngs=rngs)
        if config.rotary is None:
            self.positions = make_embedding(dtype, rngs)(config.context_length, config.width)
        self.final_norm = make_norm(config, dtype=dtype)
        if not config.tied_head:
            linear = make_linear(dtype, rngs)
            self.head = linear(config.width, config.vocab_size, use_bias=config.head_bias)

    def embed(self, tokens: Array, mask: Array) -> Array:
        """The residual stream before the first layer, `(b, t, width)`; see `Stacked.embed`."""
        x = self.embedding(tokens)
        if self.config.embedding_scale != 1.0:
            x = x * jnp.asarray(self.config.embedding_scale, self.dtype)
        if self.config.rotary is None:
            x = x + self.positions(positions_of(mask)[:, -tokens.shape[1] :])
        return x

    def layers(self, mask: Array) -> tuple[RunBlock, tuple[Array, Array] | None]:
        """What runs a layer; each has its own window, and whether that is one, if any has."""
        tables = self._rotations(mask)

        def run_block(
            block: Block,
            x: Array,
            own: tuple[Array, Array] | None,
            shift: Array | None,
            past: Past | None,
        ) -> tuple[Array, Glimpse]:
            window, rotation = None, tables[0] if tables else None
            if own is not None:
                window, is_local = own
                if len(tables) == 2:
                    rotation = jax.tree.map(
                        lambda far, near: jnp.where(is_local, near, far), *tables
                    )
            if rotation is not None:
                rotation = jax.tree.map(lambda table: table[:, -x.shape[1] :], rotation)
            return block(x, mask, shift, window=window, rotation=rotation, past=past)

        return run_block, self._windows()

    def finish(self, x: Array) -> Array:
        """Logits of the next token from the residual stream after the last layer."""
        x = self.final_norm(x)
        with precision(self.dtype):
            logits = self.embedding.attend(x) if self.config.tied_head else self.head(x)
        logits = logits.astype(jnp.float32)
        cap = self.config.logit_cap
        return logits if cap is None else cap * jnp.tanh(logits / cap)

    def _windows(self) -> tuple[Array, Array] | None:
        """Each layer's window, and whether it has one; None if no layer has."""
        windows, limit = self.config.windows, self.config.context_length
        if not any(windows):
            return None
        sizes = [limit if window is None else window for window in windows]
        return jnp.array(sizes), jnp.array([window is not None for window in windows])

    def _rotations(self, mask: Array) -> list[tuple[Array, Array]]:
        """Cosines and sines for all layers, then those for layers with a window, if they differ."""
        positions, lengths = positions_of(mask), jnp.sum(mask, axis=1)
        kinds = (self.config.rotary, self.config.local_rotary)
        return [kind.tables(positions, lengths) for kind in kinds if kind is not None]


def _through(norm: LayerNorm | RMSNorm | None, x: Array) -> Array:
    """What a norm makes of `x`; `x` itself where the model has none at this place."""
    return x if norm is None else norm(x)
