"""One layer of a model at a time, its parameters at hand and those of the others nowhere."""

from __future__ import annotations

from typing import Any

import jax
from jax import Array

from kis_jax.models import Model
from kis_jax.models.scanning import Glimpse
from kis_jax.models.stack import precision


def run_layer(
    model: Model, block: Any, layer: Array, x: Array, mask: Array
) -> tuple[Array, Glimpse]:
    """Runs one layer over a residual stream, by the function that the scan over layers runs.

    Args:
      model: whose own parameters are not looked at: shapes in their place will do.
      block: the layer, its parameters not stacked.
      layer: its index, `()` int; traced, so that one program serves all layers.
      x: the stream before it, `(b, t, width)`.
      mask: `(b, t)` bool, False at padding.

    Returns:
      The stream after the layer, and what the layer shows of itself.
    """
    run_block, per_layer = model.layers(mask)
    own = jax.tree.map(
        lambda stacked: jax.lax.dynamic_index_in_dim(stacked, layer, keepdims=False), per_layer
    )
    with precision(model.dtype):
        return run_block(block, x, own, None, None)
