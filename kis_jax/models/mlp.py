"""The MLP of a layer, whose second matrix is the memory that edits write."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from kis_jax.models.config import ModelConfig

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_fast": functools.partial(jax.nn.gelu, approximate=True),
    "gelu_new": functools.partial(jax.nn.gelu, approximate=True),
    "gelu_pytorch_tanh": functools.partial(jax.nn.gelu, approximate=True),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
    "tanh": jnp.tanh,
}


def _clamped_swiglu(gate: Array, first: Array) -> Array:
    """Of GPT-OSS: what is clamped at 7, and one added to what the gate multiplies."""
    gate = jnp.minimum(gate, 7)
    return gate * jax.nn.sigmoid(1.702 * gate) * (jnp.clip(first, -7, 7) + 1)


# How a gate and what it multiplies make keys, where it is not an activation of the gate alone.
GATES: dict[str, Callable[[Array, Array], Array]] = {"clamped_swiglu": _clamped_swiglu}


class MLP(nnx.Module):
    """Two matrices with a non-linearity between, which a third one may feed as a gate."""

    def __init__(self, config: ModelConfig, *, linear: Callable[..., nnx.Linear]):
        """Makes the projections."""
        self.activation = config.activation
        self.gated = config.gated
        self.input = linear(config.width, config.mlp_width, use_bias=config.mlp_bias)
        if config.gated:
            self.gate = linear(config.width, config.mlp_width, use_bias=config.mlp_bias)
        self.output = linear(config.mlp_width, config.width, use_bias=config.mlp_bias)

    def __call__(self, x: Array) -> tuple[Array, Array]:
        """Values `(b, t, width)`, and the keys they were read with, `(b, t, mlp_width)`."""
        gate = self.gate if self.gated else None
        return through(x, self.activation, self.input, gate, self.output)


def through(
    x: Array, activation: str, first: nnx.Linear, gate: nnx.Linear | None, second: nnx.Linear
) -> tuple[Array, Array]:
    """What an MLP of these projections makes of `x`, and the keys its second was read with."""
    if gate is not None and activation in GATES:
        keys = GATES[activation](gate(x), first(x))
    else:
        activate = ACTIVATIONS[activation]
        keys = activate(first(x)) if gate is None else activate(gate(x)) * first(x)
    return second(keys), keys
