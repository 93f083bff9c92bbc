"""A decoder-only transformer, read from its configuration; layers stacked and scanned."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike

Tap = Callable[[Array, Array], Any]

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_new": functools.partial(jax.nn.gelu, approximate=True),
    "gelu_pytorch_tanh": functools.partial(jax.nn.gelu, approximate=True),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
}


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """The shape of a decoder, in this library's words; `models.families` reads it from others'.

    Attributes:
      family: `model_type` of its HuggingFace checkpoint.
      vocab_size: number of tokens.
      context_length: the most tokens of a text.
      width: of the residual stream; also of values, m.
      num_layers: number of blocks.
      num_heads: attention heads; divides `width`.
      mlp_width: of the hidden layer of the MLP; also of keys, d.
      activation: a name in `ACTIVATIONS`.
      norm_epsilon: added to the variance in layer norms.
      attention_scale: factor on the products of queries and keys.
      tied_head: whether logits are products with the token embedding.
    """

    family: str
    vocab_size: int
    context_length: int
    width: int
    num_layers: int
    num_heads: int
    mlp_width: int
    activation: str
    norm_epsilon: float
    attention_scale: float
    tied_head: bool


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Shift:
    """A vector added to one layer's MLP output at chosen tokens; differentiable.

    Attributes:
      layer: index of the layer, `()` int.
      vectors: `(b, width)`, one for each text.
      where: `(b, t)` bool, the tokens at which it is added.
    """

    layer: Array
    vectors: Array
    where: Array


class Attention(nnx.Module):
    """Causal multi-head self-attention."""

    def __init__(self, config: DecoderConfig, *, linear: Callable[..., nnx.Linear]):
        """Makes the four projections."""
        self.num_heads = config.num_heads
        self.scale = config.attention_scale
        self.query = linear(config.width, config.width)
        self.key = linear(config.width, config.width)
        self.value = linear(config.width, config.width)
        self.output = linear(config.width, config.width)

    def __call__(self, x: Array, mask: Array) -> Array:
        """Attends from each token to itself and those before it that the mask admits."""
        heads = (*x.shape[:-1], self.num_heads, -1)
        mixed = jax.nn.dot_product_attention(
            self.query(x).reshape(heads),
            self.key(x).reshape(heads),
            self.value(x).reshape(heads),
            mask=mask[:, None, None, :],
            scale=self.scale,
            is_causal=True,
        )
        return self.output(mixed.reshape(x.shape))


class MLP(nnx.Module):
    """Two matrices with a non-linearity between; the second is the memory that edits write."""

    def __init__(self, config: DecoderConfig, *, linear: Callable[..., nnx.Linear]):
        """Makes both projections."""
        self.activation = config.activation
        self.input = linear(config.width, config.mlp_width)
        self.output = linear(config.mlp_width, config.width)

    def __call__(self, x: Array) -> tuple[Array, Array]:
        """Values `(b, t, width)`, and the keys they were read with, `(b, t, mlp_width)`."""
        keys = ACTIVATIONS[self.activation](self.input(x))
        return self.output(keys), keys


class Block(nnx.Module):
    """One layer: attention and MLP, each behind a norm, added to the residual stream."""

    def __init__(self, config: DecoderConfig, dtype: DTypeLike, *, rngs: nnx.Rngs):
        """Makes the layer, its parameters in `dtype`."""
        linear = functools.partial(
            nnx.Linear,
            kernel_init=nnx.initializers.normal(0.02),
            dtype=dtype,
            param_dtype=dtype,
            rngs=rngs,
        )
        self.attention_norm = _norm(config, dtype, rngs)
        self.attention = Attention(config, linear=linear)
        self.mlp_norm = _norm(config, dtype, rngs)
        self.mlp = MLP(config, linear=linear)

    def __call__(self, x: Array, mask: Array, shift: Array | None = None) -> tuple[Array, Array]:
        """The residual stream after this layer, and the layer's MLP keys."""
        x = x + self.attention(self.attention_norm(x), mask)
        values, keys = self.mlp(self.mlp_norm(x))
        if shift is not None:
            values = values + shift.astype(values.dtype)
        return x + values, keys


class Decoder(nnx.Module):
    """A decoder with its layers stacked along a leading axis of `blocks` and run by one scan.

    Float32 parameters are multiplied at full float32 precision on every device; bfloat16 ones
    with float32 sums where the hardware offers them, and float32 norms and softmax.

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
        self.config = config
        self.dtype = jnp.dtype(dtype)
        embed = functools.partial(
            nnx.Embed,
            embedding_init=nnx.initializers.normal(0.02),
            dtype=dtype,
            param_dtype=dtype,
            rngs=rngs,
        )
        self.embedding = embed(config.vocab_size, config.width)
        self.positions = embed(config.context_length, config.width)
        seeds = jax.random.split(rngs.params(), config.num_layers)
        self.blocks = jax.vmap(lambda seed: Block(config, dtype, rngs=nnx.Rngs(seed)))(seeds)
        self.final_norm = _norm(config, dtype, rngs)
        if not config.tied_head:
            self.head = nnx.Linear(
                config.width,
                config.vocab_size,
                use_bias=False,
                kernel_init=nnx.initializers.normal(0.02),
                dtype=dtype,
                param_dtype=dtype,
                rngs=rngs,
            )

    def __call__(
        self,
        tokens: Array,
        mask: Array | None = None,
        *,
        tap: Tap | None = None,
        shift: Shift | None = None,
    ) -> Any:
        """Logits of the next token; with a tap, also what it takes from every layer.

        Args:
          tokens: `(b, t)` int, t at most the context length.
          mask: `(b, t)` bool or 0 and 1, False at padding, on either side; None if there is none.
            Positions count the tokens that the mask admits.
          tap: a function of one layer's MLP keys `(b, t, d)` and the mask, run inside the scan
            over layers. Nothing of shape `(layers, b, t, d)` comes to be.
          shift: added to one layer's MLP output.

        Returns:
          Logits `(b, t, v)` in float32. With a tap `(logits, tapped)`, where `tapped` holds the
          tap's results stacked over layers. Under `jit`, logits that are not used cost nothing.

        Raises:
          ValueError: if `tokens` is not a matrix of integers, or longer than the context, or
            `mask` has another shape.
        """
        tokens = jnp.asarray(tokens)
        mask = jnp.ones(tokens.shape, bool) if mask is None else jnp.asarray(mask).astype(bool)
        x = self.embed(tokens, mask)
        x, tapped = self.run(x, mask, tap=tap, shift=shift)
        logits = self.logits(x)
        return logits if tap is None else (logits, tapped)

    def embed(self, tokens: Array, mask: Array) -> Array:
        """The residual stream before the first layer, `(b, t, width)`."""
        limit = self.config.context_length
        if tokens.ndim != 2 or not jnp.issubdtype(tokens.dtype, jnp.integer):
            raise ValueError(
                f"tokens: expected integers of shape (b, t), found {tokens.dtype}{tokens.shape}"
            )
        if tokens.shape[1] > limit:
            raise ValueError(
                f"tokens: expected at most {limit} a text, the model's context, "
                f"found {tokens.shape[1]}; truncate the texts"
            )
        if mask.shape != tokens.shape:
            raise ValueError(
                f"mask: expected shape {tokens.shape}, a flag for each token, found {mask.shape}"
            )
        positions = jnp.maximum(jnp.cumsum(mask.astype(jnp.int32), axis=1) - 1, 0)
        return self.embedding(tokens) + self.positions(positions)

    def run(
        self,
        x: Array,
        mask: Array,
        *,
        tap: Tap | None = None,
        shift: Shift | None = None,
    ) -> tuple[Array, Any]:
        """Runs all layers over a residual stream: the stream after them, and what was tapped."""

        def layer(x: Array, indexed: tuple[Array, Block]) -> tuple[Array, Any]:
            index, block = indexed
            if shift is None:
                x, keys = block(x, mask)
            else:
                here = shift.where & (index == shift.layer)
                zero = jnp.zeros((), shift.vectors.dtype)
                x, keys = block(x, mask, jnp.where(here[..., None], shift.vectors[:, None], zero))
            return x, None if tap is None else tap(keys, mask)

        indices = jnp.arange(self.config.num_layers)
        with self._precision():
            return jax.lax.scan(layer, x, (indices, self.blocks))

    def logits(self, x: Array) -> Array:
        """Logits of the next token from the residual stream after the last layer."""
        x = self.final_norm(x)
        with self._precision():
            logits = self.embedding.attend(x) if self.config.tied_head else self.head(x)
        return logits.astype(jnp.float32)

    def _precision(self) -> contextlib.AbstractContextManager:
        """Float32 products in full; others as the user has set them."""
        full = self.dtype == jnp.float32
        return jax.default_matmul_precision("highest") if full else contextlib.nullcontext()


def _norm(config: DecoderConfig, dtype: DTypeLike, rngs: nnx.Rngs) -> nnx.LayerNorm:
    # The variance as a mean of squared deviations: E[x^2] - E[x]^2 cancels in float32.
    return nnx.LayerNorm(
        config.width,
        epsilon=config.norm_epsilon,
        use_fast_variance=False,
        dtype=dtype,
        param_dtype=dtype,
        rngs=rngs,
    )
