"""Gradients of facts' losses by what second matrices write, at the tokens of targets."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from transformers import PreTrainedTokenizerFast

from kis_jax.data.batches import Batch, fill_batches
from kis_jax.data.batches import token_budget as default_budget
from kis_jax.data.continuations import Continuation, tokenize_continuations
from kis_jax.data.facts import Fact
from kis_jax.models import Decoder
from kis_jax.models.memory import check_layers
from kis_jax.models.stack import precision


@dataclasses.dataclass(frozen=True)
class Gradients:
    """What edits without a search go by: a row for each token of each target.

    Attributes:
      keys: by layer, `(r, d)`, where the token is predicted.
      gradients: by layer, `(r, m)`, of the fact's loss by the values there.
      losses: of each fact, -log p of its target, the mean over its tokens, `(n,)`.
    """

    keys: dict[int, np.ndarray]
    gradients: dict[int, np.ndarray]
    losses: np.ndarray


def target_gradients(
    model: Decoder,
    tokenizer: PreTrainedTokenizerFast,
    facts: Sequence[Fact],
    *,
    layers: Sequence[int],
    token_budget: int | None = None,
) -> Gradients:
    """Gradients by the values of some layers: one pass forward, and one back to the lowest.

    Args:
      model: a decoder.
      tokenizer: of the model.
      facts: each with a `target_new`; their prompts stand alone.
      layers: in ascending order.
      token_budget: the most tokens run at once; chosen from memory if None.

    Returns:
      A `Gradients`.

    Raises:
      ValueError: if the model has no such layer or a fact cannot be tokenized.

    Examples:
      >>> from kis_jax import load
      >>> from kis_jax.data.facts import read_facts
      >>> model, tokenizer = load("factlm")
      >>> found = target_gradients(model, tokenizer, read_facts("factlm", 3), layers=[2, 3])
      >>> found.losses.shape, found.keys[3].shape[1], found.gradients[3].shape[1]
      ((3,), 512, 128)
    """
    check_layers(list(layers), model.config)
    budget = default_budget(model.config) if token_budget is None else token_budget
    asked = tokenize_continuations(
        [fact.text for fact in facts],
        [fact.target_new for fact in facts],
        tokenizer,
        context_length=model.config.context_length,
    )
    losses = np.zeros(len(facts))
    parts: list[tuple[list[int], list[tuple[np.ndarray, np.ndarray]]]] = []
    for batch in fill_batches((one.tokens for one in asked), model.config, token_budget=budget):
        index, targets, counted = _places(batch, asked)
        found, shown = _gradients(
            model, batch.tokens, batch.mask, index, targets, counted, layers=tuple(layers)
        )
        rows = np.array(batch.rows)
        losses[rows] = np.asarray(found)[: len(rows)]
        owners = np.broadcast_to(rows[:, None], (len(rows), index.shape[1]))
        here = counted[: len(rows)]
        arrays = [
            (np.asarray(keys)[: len(rows)][here], np.asarray(grads)[: len(rows)][here])
            for keys, grads in shown
        ]
        parts.append((owners[here].tolist(), arrays))
    order = np.argsort(np.concatenate([owners for owners, _ in parts]), kind="stable")

    def joined(place: int, which: int) -> np.ndarray:
        return np.concatenate([arrays[place][which] for _, arrays in parts])[order]

    return Gradients(
        {layer: joined(place, 0) for place, layer in enumerate(layers)},
        {layer: joined(place, 1) for place, layer in enumerate(layers)},
        losses,
    )


def _places(
    batch: Batch, asked: Sequence[Continuation]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where the tokens of targets are predicted, which they are, and which there are, `(b, k)`."""
    longest = max(len(asked[row].tokens) - asked[row].start for row in batch.rows)
    index = np.zeros((len(batch.tokens), 1 << (longest - 1).bit_length()), np.int32)
    targets, counted = np.zeros_like(index), np.zeros(index.shape, bool)
    for place, row in enumerate(batch.rows):
        tokens, start = asked[row].tokens, asked[row].start
        length = len(tokens) - start
        index[place, :length] = np.arange(start - 1, len(tokens) - 1)
        targets[place, :length] = tokens[start:]
        counted[place, :length] = True
    return index, targets, counted


@functools.partial(jax.jit, static_argnames="layers")
def _gradients(
    model: Decoder,
    tokens: Array,
    mask: Array,
    index: Array,
    targets: Array,
    counted: Array,
    *,
    layers: tuple[int, ...],
) -> tuple[Array, list[tuple[Array, Array]]]:
    """Losses `(b,)`; and of each layer keys and gradients at the places, `(b, k, ...)`."""
    every, config = jnp.arange(tokens.shape[0])[:, None], model.config
    start, _ = model.run(model.embed(tokens, mask), mask, layers=range(layers[0]))
    run_block, own = model.layers(mask)

    def total(shifts: list[Array]) -> tuple[Array, tuple[Array, list[Array]]]:
        x, keys = start, []
        for place, (layer, shift) in enumerate(zip(layers, shifts, strict=True)):
            block, extra = jax.tree.map(lambda stacked, at=layer: stacked[at], (model.blocks, own))
            added = jnp.zeros(x.shape, shift.dtype).at[every, index].add(shift)
            with precision(model.dtype):
                x, shown = run_block(block, x, extra, added, None)
            keys.append(shown.keys[every, index])
            after = layers[place + 1] if place + 1 < len(layers) else config.num_layers
            x, _ = model.run(x, mask, layers=range(layer + 1, after))
        logits = model.finish(x[every, index])
        chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), targets[..., None], -1)[..., 0]
        count = jnp.maximum(jnp.sum(counted, axis=1, dtype=jnp.float32), 1)
        losses = -jnp.sum(jnp.where(counted, chosen, 0), axis=1) / count
        return jnp.sum(losses), (losses, keys)

    none = [jnp.zeros((*index.shape, config.width)) for _ in layers]
    (_, (losses, keys)), gradients = jax.value_and_grad(total, has_aux=True)(none)
    return losses, list(zip(keys, gradients, strict=True))
