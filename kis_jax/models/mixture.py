r"""A mixture of experts in place of a layer's MLP: each token is read by a few of many MLPs.

Its memory is the second matrices of all experts, one below the other: values are
$\sum_e g_e\,k_e W_e$, linear in the gated keys $(g_e k_e)_e$, which are zero for every expert
that a token is not routed to; where experts have biases, these are added, gated as well.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from kis_jax.core.arrays.groups import group_rows
from kis_jax.core.geometry.routed import Routed
from kis_jax.models.config import Experts, ModelConfig
from kis_jax.models.mlp import MLP, through
from kis_jax.models.stack import make_linear, stack


class Mixture(nnx.Module):
    """Several MLPs, their parameters stacked, and a router that chooses some for each token.

    No array of tokens times experts times `d` comes to be: tokens are put in the order of their
    experts, and each expert reads its own, in blocks.
    """

    def __init__(
        self, config: ModelConfig, experts: Experts, dtype: DTypeLike, *, rngs: nnx.Rngs
    ) -> None:
        """Makes the experts and the router."""
        mlps = stack(
            lambda rngs: MLP(config, linear=make_linear(dtype, rngs)), experts.count, rngs=rngs
        )
        self.experts = experts
        self.activation, self.gated = config.activation, config.gated
        self.input, self.output = mlps.input, mlps.output
        if config.gated:
            self.gate = mlps.gate
        self.router = make_linear(dtype, rngs)(
            config.width, experts.count, use_bias=experts.router_bias
        )

    def __call__(self, x: Array) -> tuple[Array, Routed]:
        """Values `(b, t, width)`, and the keys they were read with."""
        shares = jax.nn.softmax(self.router(x).astype(jnp.float32), axis=-1)
        if self.experts.chosen == self.experts.count:
            return self._by_all(x, shares.astype(x.dtype))
        gates, experts = jax.lax.top_k(shares, self.experts.chosen)
        if self.experts.renormalized:
            gates = gates / jnp.sum(gates, axis=-1, keepdims=True)
        gates = gates.astype(x.dtype)
        values, keys = self._by_some(x.reshape(-1, x.shape[-1]), experts.reshape(-1))
        shape = (*x.shape[:-1], self.experts.chosen, -1)
        routed = Routed(keys.reshape(shape), experts, gates)
        return jnp.sum(gates[..., None] * values.reshape(shape), axis=-2), routed

    def _by_all(self, x: Array, gates: Array) -> tuple[Array, Routed]:
        """As `__call__`, where every token is read by every expert."""

        def read(values: Array, expert: Array) -> tuple[Array, Array]:
            own, keys = self._read(expert, x)
            return values + jnp.take(gates, expert, axis=-1)[..., None] * own, keys

        count = self.experts.count
        values, keys = jax.lax.scan(read, jnp.zeros_like(x), jnp.arange(count))
        experts = jnp.broadcast_to(jnp.arange(count), gates.shape)
        return values, Routed(jnp.moveaxis(keys, 0, -2), experts, gates)

    def _by_some(self, x: Array, experts: Array) -> tuple[Array, Array]:
        """Values `(pairs, width)` and keys `(pairs, d)` of tokens with their experts.

        Args:
          x: `(tokens, width)`.
          experts: of each token in turn, those that read it, `(pairs,)`.
        """
        groups = group_rows(experts, self.experts.count)
        rows = x[jnp.arange(len(experts)) // self.experts.chosen]

        def read(_: None, block: tuple[Array, Array]) -> tuple[None, tuple[Array, Array]]:
            return None, self._read(*block)

        _, made = jax.lax.scan(read, None, (groups.owners, groups.blocks(rows)))
        return jax.tree.map(groups.rows, made)

    def _read(self, expert: Array, x: Array) -> tuple[Array, Array]:
        """What one expert makes of tokens, `(tokens, width)`, and its keys."""
        projections = (self.input, self.gate if self.gated else None, self.output)
        own = jax.tree.map(
            lambda stacked: jax.lax.dynamic_index_in_dim(stacked, expert, keepdims=False),
            projections,
        )
        return through(x, self.activation, *own)
