"""Keys of facts, at all layers, from one forward pass over their prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from kis_jax.core.geometry.routed import Routed
from kis_jax.data.batches import fill_batches
from kis_jax.data.prompts import Prompt
from kis_jax.models import Model
from kis_jax.models.memory import memory_rows
from kis_jax.models.sharding import mesh_of
from kis_jax.passes.dealing import dealt, on_every_host


def fact_keys(model: Model, prompts: Sequence[Prompt], *, token_budget: int) -> np.ndarray:
    """The MLP keys at each fact's token, for every layer; of a mixture, rows of its memory.

    Args:
      model: whose keys are taken; on a mesh, its devices share each batch, and every host that
        has some of them calls this.
      prompts: one for each fact.
      token_budget: the most tokens run at once, padding included.

    Returns:
      `(layers, n, d)` float32, in the order of the prompts.

    Raises:
      ValueError: if a key is not finite, naming the layer.
    """
    config, mesh = model.config, mesh_of(model)
    if config.experts is not None:
        routed = routed_fact_keys(model, prompts, token_budget=token_budget)
        return np.asarray(memory_rows(routed, config))
    keys = np.empty((config.num_layers, len(prompts), config.mlp_width), np.float32)
    texts = (prompt.tokens for prompt in prompts)
    batches = fill_batches(texts, config, token_budget=token_budget)
    for batch in batches:
        index = np.zeros(len(batch.tokens), np.int32)
        index[: len(batch.rows)] = [prompts[row].index for row in batch.rows]
        rows = [dealt(array, mesh) for array in (batch.tokens, batch.mask, index)]
        found = on_every_host(_keys_at(model, *rows))
        keys[:, batch.rows] = found[:, : len(batch.rows)]
    check_finite(keys, "keys of the facts")
    return keys


def routed_fact_keys(model: Model, prompts: Sequence[Prompt], *, token_budget: int) -> Routed:
    """As `fact_keys`, of a mixture of experts: NumPy arrays, `(layers, n, k, ...)`.

    Raises:
      ValueError: if a key or a gate is not finite, naming the layer.
    """
    found: list[Routed] = [None] * len(prompts)  # pyright: ignore
    texts = (prompt.tokens for prompt in prompts)
    for batch in fill_batches(texts, model.config, token_budget=token_budget):
        index = np.zeros(len(batch.tokens), np.int32)
        index[: len(batch.rows)] = [prompts[row].index for row in batch.rows]
        part = jax.device_get(_keys_at(model, batch.tokens, batch.mask, index))
        for place, row in enumerate(batch.rows):
            found[row] = part[:, place]
    keys = jax.tree.map(lambda *rows: np.stack(rows, axis=1), *found)
    check_finite(keys.gates, "gates of the facts")
    check_finite(keys.keys, "keys of the facts")
    return keys


@jax.jit
def _keys_at(model: Model, tokens: Array, mask: Array, index: Array) -> Any:
    rows = jnp.arange(tokens.shape[0])
    _, found = model(tokens, mask, tap=lambda keys, _: keys[rows, index])
    return jax.tree.map(as_float32, found)


def as_float32(array: Array) -> Array:
    """Of floating-point numbers; experts stay the indices that they are."""
    return array.astype(jnp.float32) if jnp.issubdtype(array.dtype, jnp.floating) else array


def check_finite(stacked: np.ndarray, what: str) -> None:
    """Raises ValueError naming the first layer, the leading axis, with a NaN or infinity."""
    finite = np.isfinite(stacked).reshape(len(stacked), -1).all(axis=1)
    if not finite.all():
        raise ValueError(
            f"{what}: expected finite numbers, found NaN or infinity in layer "
            f"{int(np.argmin(finite))}; check the checkpoint, and try float32 if it ran in bfloat16"
        )
