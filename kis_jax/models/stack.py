"""What models of stacked layers are: a scan over them, with a tap and a shift."""

from __future__ import annotations

import abc
import contextlib
import functools
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from kis_jax.models.attention import Past
from kis_jax.models.config import ModelConfig
from kis_jax.models.scanning import RunBlock, Shift, Tap, Watch, scan_layers

Config = TypeVar("Config", bound=ModelConfig)


class Stacked(nnx.Module, Generic[Config]):
    """A model with its layers stacked along a leading axis of `blocks` and run by one scan.

    Float32 parameters are multiplied at full float32 precision on every device; bfloat16 ones
    with float32 sums where the hardware offers them, and float32 norms and softmax.

    A kind of model says how it embeds, how it runs a layer, and what it makes of the stream in
    the end.
    """

    def __init__(
        self,
        config: Config,
        make_block: Callable[..., nnx.Module],
        *,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ) -> None:
        """Makes the embedding of tokens, and the layers.

        Args:
          config: the model's shape.
          make_block: makes one layer, as `make_block(config, dtype, rngs=...)`.
          dtype: of parameters and computation, float32 or bfloat16.
          rngs: of the initial parameters.
        """
        self.config = config
        self.dtype = jnp.dtype(dtype)
        self.embedding = make_embedding(dtype, rngs)(config.vocab_size, config.width)
        self.blocks = stack(
            lambda rngs: make_block(config, dtype, rngs=rngs), config.num_layers, rngs=rngs
        )

    def __call__(
        self,
        tokens: Array,
        mask: Array | None = None,
        *,
        tap: Tap | None = None,
        shift: Shift | None = None,
    ) -> Any:
        """What the model says of each token; with a tap, also what it takes from every layer.

        Args:
          tokens: `(b, t)` int, t at most the context length.
          mask: `(b, t)` bool or 0 and 1, False at padding, on either side; None if there is none.
            Positions count the tokens that the mask admits.
          tap: a function of one layer's MLP keys `(b, t, d)` and the mask, run inside the scan
            over layers. Nothing of shape `(layers, b, t, d)` comes to be.
          shift: added to one layer's MLP output.

        Returns:
          What `finish` makes of the residual stream, in float32: a decoder's logits `(b, t, v)`,
          an encoder's hidden states `(b, t, width)`. With a tap `(these, tapped)`, where `tapped`
          holds the tap's results stacked over layers. Under `jit`, logits that are not used cost
          nothing.

        Raises:
          ValueError: if `tokens` is not a matrix of integers, or longer than the context, or
            `mask` has another shape.
        """
        tokens = jnp.asarray(tokens)
        mask = jnp.ones(tokens.shape, bool) if mask is None else jnp.asarray(mask).astype(bool)
        check_tokens(tokens, mask, self.config)
        watch = None if tap is None else lambda glimpse: tap(glimpse.keys, mask)
        x, tapped = self.run(self.embed(tokens, mask), mask, watch=watch, shift=shift)
        outputs = self.finish(x)
        return outputs if tap is None else (outputs, tapped)

    def run(
        self,
        x: Array,
        mask: Array,
        *,
        watch: Watch | None = None,
        shift: Shift | None = None,
        layers: range | None = None,
        between: tuple[Array, Array] | None = None,
        past: Past | None = None,
    ) -> tuple[Array, Any]:
        """Runs layers over a residual stream; of a decoder, also on top of tokens run earlier.

        Args:
          x: the stream before the first of the layers, `(b, t, width)`.
          mask: `(b, p + t)` bool, False at padding: of the p tokens of the past, then of these.
            Padding may stand between the two.
          watch: a function of one layer's `Glimpse`, run inside the scan.
          shift: added to one layer's MLP output.
          layers: which to run, neighbours in ascending order; all if None.
          between: of these, the first that is run and the first that no longer is, which may be
            traced; nothing is watched then.
          past: attention's keys and values of earlier tokens, stacked over the layers that are
            run, as a watch that returns `glimpse.past` gathers them; None if p = 0.

        Returns:
          The stream after the last of the layers, and what was watched, stacked over them.
        """
        run_block, per_layer = self.layers(mask)
        with precision(self.dtype):
            return scan_layers(
                run_block,
                self.blocks,
                x,
                per_layer,
                watch=watch,
                shift=shift,
                layers=layers,
                between=between,
                past=past,
            )

    @abc.abstractmethod
    def embed(self, tokens: Array, mask: Array) -> Array:
        """The residual stream before the first layer, `(b, t, width)`.

        The mask is `(b, p + t)` where p tokens were run earlier: positions count from them on.
        """

    @abc.abstractmethod
    def layers(self, mask: Array) -> tuple[RunBlock, Any]:
        """What runs a layer on texts with this mask, and a pytree of what each has of its own."""

    @abc.abstractmethod
    def finish(self, x: Array) -> Array:
        """What the model says of each token, in float32, from the stream after the last layer."""


def stack(make_block: Callable[[nnx.Rngs], Any], num_layers: int, *, rngs: nnx.Rngs) -> Any:
    """One block whose every parameter has a leading axis over the layers."""
    seeds = jax.random.split(rngs.params(), num_layers)
    return jax.vmap(lambda seed: make_block(nnx.Rngs(seed)))(seeds)


def check_tokens(tokens: Array, mask: Array, config: ModelConfig) -> None:
    """Raises ValueError if tokens or mask have a shape or dtype that the model cannot run."""
    limit = config.context_length
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


def precision(dtype: DTypeLike) -> contextlib.AbstractContextManager:
    """Float32 products in full on every device; others as the user has set them."""
    full = jnp.dtype(dtype) == jnp.float32
    return jax.default_matmul_precision("highest") if full else contextlib.nullcontext()


def make_linear(dtype: DTypeLike, rngs: nnx.Rngs) -> Callable[..., nnx.Linear]:
    """A maker of linear layers, their kernels normal with standard deviation 0.02 at first."""
    return functools.partial(
        nnx.Linear,
        kernel_init=nnx.initializers.normal(0.02),
        dtype=dtype,
        param_dtype=dtype,
        rngs=rngs,
    )


def make_embedding(dtype: DTypeLike, rngs: nnx.Rngs) -> Callable[..., nnx.Embed]:
    """A maker of embeddings, normal with standard deviation 0.02 at first."""
    return functools.partial(
        nnx.Embed,
        embedding_init=nnx.initializers.normal(0.02),
        dtype=dtype,
        param_dtype=dtype,
        rngs=rngs,
    )
