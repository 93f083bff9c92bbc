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
from kis_jax.models.mixture import Mixture
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
        self.attention = Attention(config, linear=linear, dtype=dtype, norm=norm)
        self.attention_post_norm = norm() if config.norms_after else None
        self.mlp_norm = norm() if config.norms_before and not config.shared_norm else None
        if config.experts is None:
            self.mlp = MLP(config, linear=linear)
        else:
            self.mlp = Mixture(config, config.experts, dtype, rngs=rngs)
        self.mlp_post_norm = norm() if config.norms_after else None
        self.shared_norm = config.shared_norm
        self.residual_scale = config.residual_scale

    def __call__(
        self,
        x: Array,
        mask: Array,
        shift: Array | None = None,
        *,
        window: Array | None = None,
        rotation: tuple[Array, Array] | None = None,
        query_scale: Array | None = None,
        past: Past | None = None,
    ) -> tuple[Array, Glimpse]:
        """The residual stream after this layer, and what the layer shows of itself.

        Args:
          x: the stream before it, `(b, t, width)`.
          mask: `(b, p + t)` bool, False at padding; see `Attention`.
          shift: added to what the MLP's second matrix writes, `(b, t, width)`.
          window: see `Attention`.
          rotation: see `Attention`.
          query_scale: see `Attention`.
          past: see `Attention`.
        """
        read = _through(self.attention_norm, x)
        attended, own = self.attention(
            read, mask, window=window, rotation=rotation, query_scale=query_scale, past=past
        )
        rest = self._add(x, _through(self.attention_post_norm, attended))
        source = x if self.parallel else rest
        values, keys = self.mlp(read if self.shared_norm else _through(self.mlp_norm, source))
        shifted = values if shift is None else values + shift.astype(values.dtype)
        return self.write(rest, shifted), Glimpse(keys, values, rest, own)

    def write(self, rest: Array, values: Array) -> Array:
        """The stream after this layer, from what its MLP's second matrix makes and the rest."""
        return self._add(rest, _through(self.mlp_post_norm, values))

    def _add(self, rest: Array, part: Array) -> Array:
        if self.residual_scale != 1.0:
            part = part * jnp.asarray(self.residual_scale, part.dtype)
        return rest + part


class Decoder(Stacked[DecoderConfig]):
    """A decoder, which gives logits of the next token, `(b, t, v)`.

    Examples:
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

    def layers(self, mask: Array) -> tuple[RunBlock, dict[str, Array]]:
        """What runs a layer, and what each has of its own, where layers are not all alike.

        That is its window, whether it has one at all, and whether it turns queries and keys.
        """
        tables, query_scale = self._rotations(mask)

        def run_block(
            block: Block, x: Array, own: dict[str, Array], shift: Array | None, past: Past | None
        ) -> tuple[Array, Glimpse]:
            rotation = tables[0] if tables else None
            if len(tables) == 2 and "is_local" in own:
                rotation = jax.tree.map(
                    lambda far, near: jnp.where(own["is_local"], near, far), *tables
                )
            if rotation is not None and "turns" in own:
                rotation = tuple(
                    jnp.where(own["turns"], table, still)
                    for table, still in zip(rotation, (1.0, 0.0), strict=True)
                )
            if rotation is not None:
                rotation = jax.tree.map(lambda table: table[:, -x.shape[1] :], rotation)
            scale = None if query_scale is None else query_scale[:, -x.shape[1] :]
            return block(
                *(x, mask, shift),
                window=own.get("window"),
                rotation=rotation,
                query_scale=scale,
                past=past,
            )

        return run_block, self._own()

    def finish(self, x: Array) -> Array:
        """Logits of the next token from the residual stream after the last layer."""
        x = self.final_norm(x)
        with precision(self.dtype):
            logits = self.embedding.attend(x) if self.config.tied_head else self.head(x)
        logits = self.config.logit_scale * logits.astype(jnp.float32)
        cap = self.config.logit_cap
        return logits if cap is None else cap * jnp.tanh(logits / cap)

    def _own(self) -> dict[str, Array]:
        """What each layer has of its own, stacked; see `layers`."""
        windows, limit, own = self.config.windows, self.config.context_length, {}
        if any(windows):
            own["window"] = jnp.array([limit if window is None else window for window in windows])
            own["is_local"] = jnp.array([window is not None for window in windows])
        if self.config.unrotated:
            layers = range(self.config.num_layers)
            own["turns"] = jnp.array([layer not in self.config.unrotated for layer in layers])
        return own

    def _rotations(self, mask: Array) -> tuple[list[tuple[Array, Array]], Array | None]:
        """Cosines and sines for all layers, then those for layers with a window, if they differ.

        And factors on queries, if there are any.
        """
        positions, lengths = positions_of(mask), jnp.sum(mask, axis=1)
        kinds = (self.config.rotary, self.config.local_rotary)
        tables = [kind.tables(positions, lengths) for kind in kinds if kind is not None]
        rotary = self.config.rotary
        return tables, None if rotary is None else rotary.query_scale(positions)


def _through(norm: LayerNorm | RMSNorm | None, x: Array) -> Array:
    """What a norm makes of `x`; `x` itself where the model has none at this place."""
    return x if norm is None else norm(x)
