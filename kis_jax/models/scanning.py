"""Stacked layers run one after another by one scan: what it hands out, what it takes in."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from kis_jax.models.attention import Past

Tap = Callable[[Any, Array], Any]


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


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Glimpse:
    """What one layer shows of itself as it runs.

    Attributes:
      keys: of its MLP, `(b, t, mlp_width)`; of a mixture, a `Routed`: those of the
        experts of each token.
      values: what its MLP's second matrix makes of them, `(b, t, width)`; before any shift.
      rest: the stream that the values are added to, `(b, t, width)`.
      past: attention's keys and values of these tokens.
    """

    keys: Any
    values: Array
    rest: Array
    past: Past


Watch = Callable[[Glimpse], Any]

# Of a block, the stream before it, what is its layer's own, what is added to its MLP output (None
# for nothing), and attention's past (None if there is none): the stream after it, and its glimpse.
RunBlock = Callable[[Any, Array, Any, Array | None, Past | None], tuple[Array, Glimpse]]


def scan_layers(
    run_block: RunBlock,
    blocks: Any,
    x: Array,
    per_layer: Any = None,
    *,
    watch: Watch | None = None,
    shift: Shift | None = None,
    layers: range | None = None,
    between: tuple[Array, Array] | None = None,
    past: Past | None = None,
) -> tuple[Array, Any]:
    """Runs stacked blocks over a residual stream, compiled once whatever their number.

    Args:
      run_block: what runs one of them, given what `per_layer` holds for its layer.
      blocks: stacked; see `stack`.
      x: the stream before the first of the layers, `(b, t, width)`.
      per_layer: a pytree of arrays with a leading axis over all layers.
      watch: a function of one layer's `Glimpse`, run inside the scan.
      shift: added to one layer's MLP output.
      layers: which to run, neighbours in ascending order; all if None.
      between: of these, the first that is run and the first that no longer is; the others are
        passed over. They may be traced, so that one program serves all. Nothing is watched then.
      past: attention's keys and values of earlier tokens, stacked over the layers that are run.

    Returns:
      The stream after the last of the layers, and what `watch` returned, stacked over them.
    """

    def layer(x: Array, own: tuple[Array, Any, Any, Past | None]) -> tuple[Array, Any]:
        index, block, extra, earlier = own
        added = None
        if shift is not None:
            here = shift.where & (index == shift.layer)
            zero = jnp.zeros((), shift.vectors.dtype)
            added = jnp.where(here[..., None], shift.vectors[:, None], zero)
        x, glimpse = run_block(block, x, extra, added, earlier)
        return x, None if watch is None else watch(glimpse)

    num_layers = jax.tree.leaves(blocks)[0].shape[0]
    if layers is None and between is None:
        return jax.lax.scan(layer, x, (jnp.arange(num_layers), blocks, per_layer, past))
    layers = range(num_layers) if layers is None else layers

    # A slice of the stacked blocks would be a copy of them: each is looked up as it is run. Were
    # it kept for the gradient, the copy would come back, so only products of matrices are kept.
    def looked_up(x: Array, own: tuple[Array, Any, Past | None]) -> tuple[Array, Any]:
        index, extra, earlier = own

        def run(x: Array) -> tuple[Array, Any]:
            block = jax.tree.map(lambda stacked: _row(stacked, index), blocks)
            return layer(x, (index, block, extra, earlier))

        if between is None:
            return run(x)
        inside = (index >= between[0]) & (index < between[1])
        return jax.lax.cond(inside, lambda x: run(x)[0], lambda x: x, x), None

    body = jax.checkpoint(
        looked_up, policy=jax.checkpoint_policies.dots_saveable, prevent_cse=False
    )
    extras = jax.tree.map(lambda stacked: stacked[layers.start : layers.stop], per_layer)
    return jax.lax.scan(body, x, (jnp.arange(layers.start, layers.stop), extras, past))


def _row(stacked: Array, index: Array) -> Array:
    return jax.lax.dynamic_index_in_dim(stacked, index, keepdims=False)
