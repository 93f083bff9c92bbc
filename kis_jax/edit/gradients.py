"""Edits along normalised gradients, a block of facts at a time, with no search for values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax import Array

from kis_jax.checkpoints.ledger import LayerLedger
from kis_jax.core.arrays.precision import HOST
from kis_jax.core.arrays.products import lengths
from kis_jax.core.editing.ledger import Edit
from kis_jax.core.editing.normalised import Normalised
from kis_jax.data.facts import Fact
from kis_jax.edit.job import Job, Search, Written
from kis_jax.models import Decoder
from kis_jax.models.memory import edited, memory_kernel
from kis_jax.passes.targets.gradients import Gradients, target_gradients
from kis_jax.passes.targets.settings import EditSettings

BLOCK = 20
"""Facts whose gradients are taken on one model."""

WARM_UP = 20
"""Blocks from which StableEdit has its statistics before it writes."""


def write_gradients(job: Job, on_fact: Callable[[int], None]) -> Written:
    """All facts, `BLOCK` at a time, each on the model as the blocks before left it."""
    whitened, model = job.recipe.kind == "stableedit", job.model
    states = {layer: first_state(model, layer, whitened=whitened) for layer in job.layers}
    blocks = [job.facts[start : start + BLOCK] for start in range(0, len(job.facts), BLOCK)]

    def seen(model: Decoder, block: Sequence[Fact]) -> Gradients:
        return target_gradients(
            *(model, job.tokenizer, block), layers=job.layers, token_budget=job.token_budget
        )

    for block in blocks[:WARM_UP] if whitened else ():
        found = seen(model, block)
        states = {layer: counted(states[layer], found, layer) for layer in job.layers}
    parts: dict[int, list[Edit]] = {layer: [] for layer in job.layers}
    searches: list[Search] = []
    sizes: dict[int, float] = {}
    for place, block in enumerate(blocks):
        found = seen(model, block)
        searches += [Search(float(loss), float(np.exp(-loss)), 1) for loss in found.losses]
        made = {}
        for layer in job.layers:
            states[layer] = counted(states[layer], found, layer)
            if place == 0:
                sizes[layer] = typical(job.model, layer, found)
            made[layer] = along(states[layer], found, layer, job.settings, sizes[layer])
            parts[layer].append(made[layer])
        model = edited(model, made)
        on_fact(min((place + 1) * BLOCK, len(job.facts)))
    layers = {layer: LayerLedger(_joined(edits), None) for layer, edits in parts.items()}
    return Written(layers, [None] * len(job.facts), searches)


def first_state(model: Decoder, layer: int, *, whitened: bool) -> Normalised:
    """Of a layer, before all edits."""
    shape = memory_kernel(model, layer).shape
    with HOST.active():
        return Normalised.init(*shape, whitened=whitened, dtype="float64")


def counted(state: Normalised, found: Gradients, layer: int) -> Normalised:
    """The statistics with those of some more facts."""
    return HOST.run(Normalised.update, state, found.keys[layer], found.gradients[layer])


def along(
    state: Normalised, found: Gradients, layer: int, settings: EditSettings, size: float
) -> Edit:
    """The update of a layer by some facts, in whose statistics they are; NumPy float64."""
    step, ridge = settings.gradient_step * size, settings.gradient_ridge
    given: Any = (found.keys[layer], found.gradients[layer])
    return HOST.run(Normalised.edit, state, *given, np.float64(step), np.float64(ridge))


def typical(model: Decoder, layer: int, found: Gradients) -> float:
    """The mean length of what a layer writes at the tokens of targets, before all edits."""
    values = found.keys[layer] @ np.asarray(memory_kernel(model, layer))
    return float(lengths(values).mean())


def _joined(edits: Sequence[Edit]) -> Edit:
    def rows(*parts: Array) -> np.ndarray:
        return np.concatenate(parts)

    return jax.tree.map(rows, *edits)
