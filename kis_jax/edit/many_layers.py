"""MEMIT: what a fact asks of one layer, spread over several of them, from the lowest up."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from kis_jax.checkpoints.ledger import LayerLedger, replayed
from kis_jax.core.arrays.precision import HOST
from kis_jax.core.editing.replay import Asked
from kis_jax.core.geometry.spaces import Space
from kis_jax.data.batches import fill_batches, token_budget
from kis_jax.data.rewrites import Rewrite, tokenize_rewrites
from kis_jax.edit.closed_forms import editable
from kis_jax.edit.job import Job, Written, failures, none_left, searches
from kis_jax.models import Decoder
from kis_jax.models.memory import edited, memory_rows
from kis_jax.passes.targets.settings import Convention
from kis_jax.passes.targets.values import TargetValues


def write_layers(job: Job, targets: TargetValues) -> Written:
    r"""All facts by MEMIT's closed form, in several layers.

    The stream after the last layer is to move by what the target values ask. Layer i of L takes
    its share of what is missing then, $r_i = (z - h) / (L - i)$, and what is missing, and the keys
    of the next layer, are measured anew on the model that it has left. A fact that cannot be
    written in one of the layers is left out of all.

    Raises:
      ValueError: if no fact can be edited.

    Reference: Meng et al. 2023 (arXiv 2210.07229), eqs. 20 and 21, algorithm 1.
    """
    weight = job.weight(targets)
    reasons = failures(targets)
    while True:
        kept = [row for row, reason in enumerate(reasons) if reason is None]
        if not kept:
            raise ValueError(none_left(reasons))
        layers, found = _spread(job, targets, kept, weight)
        if not any(found):
            return Written(layers, reasons, searches(targets), weight)
        # What was written for such a fact in lower layers has moved the others: all anew.
        for row, reason in zip(kept, found, strict=True):
            reasons[row] = reason


def _spread(
    job: Job, targets: TargetValues, kept: list[int], weight: float | None
) -> tuple[dict[int, LayerLedger], list[str | None]]:
    """Some facts written into all the layers; or up to one that cannot be written for some of them.

    Returns:
      What was done to each layer, and for each of the facts why it cannot be edited.
    """
    rewrites = tokenize_rewrites(
        [job.facts[row] for row in kept],
        job.prefixes,
        job.tokenizer,
        context_length=job.model.config.context_length,
        position=targets.settings.position,
    )
    weights = _key_weights(rewrites, targets.settings.convention)
    # What the MLP of the last layer was to add is what the stream after it was to gain.
    wanted = (targets.values - targets.initial)[kept].astype(np.float64)
    model, goal, last = job.model, None, job.layers[-1]
    layers: dict[int, LayerLedger] = {}
    for left, layer in zip(range(len(job.layers), 0, -1), job.layers, strict=True):
        keys, stream = _observe(job, model, rewrites, weights, layer, last)
        goal = stream + wanted if goal is None else goal
        requested: Any = (goal - stream) / left
        asked = Asked(keys, HOST.run(Space.solve, job.space(layer), keys), requested)
        reasons = editable(asked, job.method)
        if any(reasons):
            return layers, [reason and f"layer {layer}: {reason}" for reason in reasons]
        layers[layer] = replayed(asked, job.method, weight)
        model = edited(job.model, {at: own.edit for at, own in layers.items()})
    return layers, [None] * len(kept)


def _key_weights(rewrites: list[Rewrite], convention: Convention) -> np.ndarray:
    """Weight of each text's key in the average of its fact, `(n, p)`; 0 for those left out."""
    weights = np.array([[text is not None for text in one.texts] for one in rewrites], np.float64)
    if convention != "rome":  # within each kind, then over both
        weights[:, 1:] /= np.maximum(weights[:, 1:].sum(axis=1, keepdims=True), 1)
    return weights / weights.sum(axis=1, keepdims=True)


def _observe(
    job: Job,
    model: Decoder,
    rewrites: list[Rewrite],
    weights: np.ndarray,
    layer: int,
    last: int,
) -> tuple[Any, np.ndarray]:
    """Of each fact: its key in a layer, averaged over prefixes, and the stream after the last.

    Both at the token whose key stands for the fact, the stream after the prompt alone; `(n, d)`
    and `(n, m)` float64.
    """
    placed = [
        (row, place, text)
        for row, rewrite in enumerate(rewrites)
        for place, text in enumerate(rewrite.texts)
        if text is not None
    ]
    config = model.config
    keys = np.zeros((len(rewrites), config.memory_width))
    stream = np.zeros((len(rewrites), config.width))
    budget = token_budget(config) if job.token_budget is None else job.token_budget
    texts = (text.tokens[: text.start] for _, _, text in placed)  # what follows changes nothing
    for batch in fill_batches(texts, config, token_budget=budget):
        index = np.zeros(len(batch.tokens), np.int32)
        index[: len(batch.rows)] = [placed[row][2].index for row in batch.rows]
        found = _observed(model, batch.tokens, batch.mask, index, layer, last)
        found_keys, found_stream = (np.asarray(part, np.float64) for part in found)
        for here, number in enumerate(batch.rows):
            row, place, _ = placed[number]
            keys[row] += weights[row, place] * found_keys[here]
            if place == 0:
                stream[row] = found_stream[here]
    return keys, stream


@functools.partial(jax.jit, static_argnames=("layer", "last"))
def _observed(
    model: Decoder, tokens: Array, mask: Array, index: Array, layer: int, last: int
) -> tuple[Array, Array]:
    """Keys of a layer and the stream after the last, at one token of each text."""
    every = jnp.arange(len(tokens))
    x, _ = model.run(model.embed(tokens, mask), mask, layers=range(layer))
    x, keys = model.run(
        x, mask, layers=range(layer, layer + 1), watch=lambda g: g.keys[every, index]
    )
    x, _ = model.run(x, mask, layers=range(layer + 1, last + 1))
    rows = memory_rows(keys[0], model.config)
    return rows.astype(jnp.float32), x[every, index].astype(jnp.float32)
