"""Fine-tuning of one layer's memory on facts: the baseline that edits are held against."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from transformers import PreTrainedTokenizerFast

from kis_jax.data.batches import fill_batches
from kis_jax.data.batches import token_budget as default_budget
from kis_jax.data.continuations import tokenize_continuations
from kis_jax.data.facts import Fact
from kis_jax.models import Decoder
from kis_jax.models.memory import check_layers, memory_kernel
from kis_jax.passes.not_finite import NotFiniteError


@dataclasses.dataclass(frozen=True)
class FinetuneSettings:
    """How the kernel is tuned.

    Attributes:
      steps: of Adam, at most; each on all facts.
      learning_rate: of Adam.
      stop_below: no further step once the mean loss of the facts is under this.
      largest_change: that any number of the kernel may have, as in constrained fine-tuning
        (FT-L); None for any.
    """

    steps: int = 100
    learning_rate: float = 5e-4
    stop_below: float = 0.05
    largest_change: float | None = None


@dataclasses.dataclass(frozen=True)
class Finetuned:
    """A tuned kernel.

    Attributes:
      kernel: `(d, m)` float32.
      losses: `(n,)`, -log p of each fact's target, the mean over its tokens, at the end.
      steps: that were taken.
    """

    kernel: np.ndarray
    losses: np.ndarray
    steps: int


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Texts:
    """Some facts up to the tuned layer, which no step changes.

    Attributes:
      keys: of the layer, `(b, t, d)`.
      rest: the stream to which its values are added, `(b, t, width)`.
      mask: `(b, t)` bool.
      index: where the targets' tokens are predicted, `(b, k)`.
      targets: these tokens, `(b, k)`.
      counted: which of them there are, `(b, k)` bool.
    """

    keys: Array
    rest: Array
    mask: Array
    index: Array
    targets: Array
    counted: Array


def finetune(
    model: Decoder,
    tokenizer: PreTrainedTokenizerFast,
    facts: Sequence[Fact],
    *,
    layer: int,
    settings: FinetuneSettings | None = None,
    token_budget: int | None = None,
) -> Finetuned:
    """Tunes the kernel of one layer's memory by Adam until the model says the new objects.

    Full batches: every step sees every fact, so that the result does not depend on chance. The
    layers up to the tuned one are run once; each step runs those above.

    Args:
      model: it stays as it is.
      tokenizer: of the model.
      facts: with a `target_new` each; their prompts stand alone, with no prefix.
      layer: whose memory is tuned.
      settings: None: the defaults.
      token_budget: the most tokens run at once; chosen from memory if None.

    Returns:
      A `Finetuned`.

    Raises:
      ValueError: if the model has no such layer or a fact cannot be tokenized; the subclass
        `NotFiniteError` if the loss ceases to be finite.

    Examples:
      >>> from kis_jax import load
      >>> from kis_jax.data.facts import read_facts
      >>> model, tokenizer = load("factlm")
      >>> tuned = finetune(model, tokenizer, read_facts("factlm", 2), layer=3)
      >>> bool((tuned.losses < 0.2).all())
      True

    Reference: Zhu et al. 2020 (arXiv 2012.00363), constrained fine-tuning; Meng et al. 2022
    (arXiv 2202.05262), its use as a baseline, FT and FT-L.
    """
    check_layers([layer], model.config)
    settings = FinetuneSettings() if settings is None else settings
    budget = default_budget(model.config) if token_budget is None else token_budget
    batches = _batches(model, tokenizer, facts, layer, budget)
    optimiser = optax.adam(settings.learning_rate)
    start = kernel = memory_kernel(model, layer).astype(jnp.float32)
    state, taken = optimiser.init(kernel), 0
    while True:
        losses, gradient = np.empty(len(facts)), jnp.zeros_like(kernel)
        for rows, texts in batches:
            found, part = _losses(kernel, model, texts, layer)
            losses[rows], gradient = np.asarray(found)[: len(rows)], gradient + part
        if not np.isfinite(losses).all():
            raise NotFiniteError(
                f"settings: expected a finite loss, found {losses.mean()} after {taken} steps; "
                "lower the learning rate, or check the model's parameters"
            )
        if losses.mean() < settings.stop_below or taken == settings.steps:
            return Finetuned(np.asarray(kernel), losses, taken)
        with jax.numpy_dtype_promotion("standard"):  # optax counts its steps in integers
            updates, state = optimiser.update(gradient / len(facts), state)
            kernel = jnp.asarray(optax.apply_updates(kernel, updates))
        if settings.largest_change is not None:
            bound = settings.largest_change
            kernel = start + jnp.clip(kernel - start, -bound, bound)
        taken += 1


def _batches(
    model: Decoder,
    tokenizer: PreTrainedTokenizerFast,
    facts: Sequence[Fact],
    layer: int,
    budget: int,
) -> list[tuple[list[int], _Texts]]:
    """The facts in batches, run up to the tuned layer, and which facts each batch holds."""
    asked = tokenize_continuations(
        [fact.text for fact in facts],
        [fact.target_new for fact in facts],
        tokenizer,
        context_length=model.config.context_length,
    )
    found = []
    for batch in fill_batches((one.tokens for one in asked), model.config, token_budget=budget):
        rows = list(batch.rows)
        width = (
            1 << (max(len(asked[row].tokens) - asked[row].start for row in rows) - 1).bit_length()
        )
        index = np.zeros((len(batch.tokens), width), np.int32)
        targets, counted = np.zeros_like(index), np.zeros(index.shape, bool)
        for place, row in enumerate(rows):
            tokens, start = asked[row].tokens, asked[row].start
            length = len(tokens) - start
            index[place, :length] = np.arange(start - 1, len(tokens) - 1)
            targets[place, :length] = tokens[start:]
            counted[place, :length] = True
        keys, rest = _up_to(model, batch.tokens, batch.mask, layer)
        places = map(jnp.asarray, (batch.mask, index, targets, counted))
        found.append((rows, _Texts(keys, rest, *places)))
    return found


@functools.partial(jax.jit, static_argnames="layer")
def _up_to(model: Decoder, tokens: Array, mask: Array, layer: int) -> tuple[Array, Array]:
    """Keys of a layer, and the stream to which its values are added."""
    x, _ = model.run(model.embed(tokens, mask), mask, layers=range(layer))
    _, shown = model.run(x, mask, layers=range(layer, layer + 1), watch=lambda g: (g.keys, g.rest))
    return jax.tree.map(lambda part: part[0], shown)


@functools.partial(jax.jit, static_argnames="layer")
def _losses(kernel: Array, model: Decoder, texts: _Texts, layer: int) -> tuple[Array, Array]:
    """The loss of each fact with a kernel, `(b,)`, and the gradient of their sum."""
    block = jax.tree.map(lambda stacked: stacked[layer], model.blocks)
    bias = block.mlp.output.bias
    every = jnp.arange(len(texts.keys))[:, None]

    def total(kernel: Array) -> tuple[Array, Array]:
        values = jnp.matmul(texts.keys, kernel.astype(texts.keys.dtype), precision="highest")
        values = values if bias is None else values + bias[...]
        x = block.write(texts.rest, values)
        x, _ = model.run(x, texts.mask, layers=range(layer + 1, model.config.num_layers))
        logits = model.finish(x[every, texts.index])
        chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), texts.targets[..., None], -1)
        log_p = jnp.sum(jnp.where(texts.counted, chosen[..., 0], 0), axis=1)
        count = jnp.maximum(jnp.sum(texts.counted, axis=1, dtype=jnp.float32), 1)
        losses = -log_p / count
        return jnp.sum(losses), losses

    (_, losses), gradient = jax.value_and_grad(total, has_aux=True)(kernel)
    return losses, gradient
