"""Edits tried without making them: every fact's own in one pass, over what no edit changes."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from transformers import PreTrainedTokenizerFast

from kis_jax.data.batches import fill_batches
from kis_jax.data.batches import token_budget as default_budget
from kis_jax.data.continuations import Continuation
from kis_jax.data.facts import Fact
from kis_jax.models import Decoder
from kis_jax.passes.scores.measures import Evaluation, Questions

# Logits that are held at a time, in numbers: 64 MiB, whatever the vocabulary.
_MOST_LOGITS = 2**24


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Texts:
    """A batch of texts up to the edited layer, which no edit of it changes.

    Attributes:
      keys: of the layer, `(b, t, d)`.
      values: what its memory answers, `(b, t, m)`.
      rest: the stream to which that is added, `(b, t, m)`.
      mask: `(b, t)` bool.
      rows: of the tokens that predict one of an answer, `(k,)`; zeros fill up.
      columns: likewise.
      tokens: that are predicted, `(k,)`.
    """

    keys: Array
    values: Array
    rest: Array
    mask: Array
    rows: Array
    columns: Array
    tokens: Array


@dataclasses.dataclass(frozen=True)
class _Batch:
    texts: _Texts
    continuations: np.ndarray  # of which continuation each predicted token is
    facts: np.ndarray  # of which fact each text is


class Trials:
    """Questions about facts, held up to one layer, to be asked of many edits of it.

    An edit of a layer changes nothing below it, and an edit of one fact is a rank-one update: so
    that texts run to the layer once, and from there on each with an edit of its own, all facts'
    single edits in one pass.
    """

    def __init__(
        self,
        model: Decoder,
        tokenizer: PreTrainedTokenizerFast,
        facts: Sequence[Fact],
        layer: int,
        *,
        text: Sequence[Continuation] = (),
        token_budget: int | None = None,
    ) -> None:
        """Runs all texts up to the layer.

        Args:
          model: not edited.
          tokenizer: of the model.
          facts: each with a new target.
          layer: that is to be edited.
          text: ordinary text, to be scored beside the questions.
          token_budget: the most tokens run at once; chosen from memory if None.
        """
        config = model.config
        self._model, self._layer, self._num_facts = model, layer, len(facts)
        self._questions = Questions(facts, tokenizer, context_length=config.context_length)
        self._asked = len(self._questions.continuations)
        told = [*self._questions.continuations, *text]
        rows = np.concatenate([self._questions.rows, np.zeros(len(text), int)])
        starts = [one.start for one in told]
        self._lengths = np.array([len(one.tokens) - one.start for one in told])
        budget = default_budget(config) if token_budget is None else token_budget
        self._batches = []
        for batch in fill_batches((one.tokens for one in told), config, token_budget=budget):
            first = np.array([starts[row] - 1 for row in batch.rows])
            held = batch.mask[: len(batch.rows), 1:]
            at, columns = np.nonzero(held & (np.arange(held.shape[1]) >= first[:, None]))
            places = np.array(batch.rows)
            size = max(64, 1 << (len(at) - 1).bit_length())
            padded = [
                np.pad(index, (0, size - len(index)))
                for index in (at, columns, batch.tokens[at, columns + 1])
            ]
            shown = _up_to(model, batch.tokens, batch.mask, layer)
            facts_of = np.zeros(len(batch.tokens), int)
            facts_of[: len(places)] = rows[places]
            texts = _Texts(*shown, *map(jnp.asarray, (batch.mask, *padded)))
            self._batches.append(_Batch(texts, places[at], facts_of))

    def alone(self, along: np.ndarray, residuals: np.ndarray) -> tuple[Evaluation, np.ndarray]:
        """Each fact asked of a model in which it alone is edited.

        Args:
          along: directions of the edits, `(n, d)`.
          residuals: what they write along them, `(n, m)`.

        Returns:
          What became of the facts; and log p of the text, `(text,)`, under the edit of the first.
        """
        along, residuals = np.asarray(along, np.float32), np.asarray(residuals, np.float32)
        return self._told(
            lambda batch: _alone(
                self._model,
                batch.texts,
                along[batch.facts],
                residuals[batch.facts],
                layer=self._layer,
            )
        )

    def together(self, delta: np.ndarray) -> tuple[Evaluation, np.ndarray]:
        """All facts, and the text, asked of the model with one update of the kernel, `(d, m)`."""
        update = jnp.asarray(delta, jnp.float32)
        return self._told(
            lambda batch: _together(self._model, batch.texts, update, layer=self._layer)
        )

    def _told(self, run) -> tuple[Evaluation, np.ndarray]:
        total, leads = np.zeros(len(self._lengths)), np.ones(len(self._lengths), bool)
        for batch in self._batches:
            found, likeliest = run(batch)
            of = batch.continuations
            np.add.at(total, of, np.asarray(found, np.float64)[: len(of)])
            np.logical_and.at(leads, of, np.asarray(likeliest)[: len(of)])
        means = total / np.maximum(self._lengths, 1)
        asked = self._asked
        return self._questions.evaluation(means[:asked], leads[:asked]), means[asked:]


@functools.partial(jax.jit, static_argnames="layer")
def _up_to(model: Decoder, tokens: Array, mask: Array, layer: int) -> tuple[Array, Array, Array]:
    x, _ = model.run(model.embed(tokens, mask), mask, layers=range(layer))
    here = range(layer, layer + 1)
    _, shown = model.run(x, mask, layers=here, watch=lambda g: (g.keys, g.values, g.rest))
    return jax.tree.map(lambda part: part[0], shown)


@functools.partial(jax.jit, static_argnames="layer")
def _alone(
    model: Decoder, texts: _Texts, along: Array, residuals: Array, *, layer: int
) -> tuple[Array, Array]:
    """Of texts with an edit each, `(b, d)` and `(b, m)`: see `_said`."""
    shares = jnp.matmul(texts.keys, along[..., None], precision="highest")
    return _said(model, texts, shares * residuals[:, None], layer)


@functools.partial(jax.jit, static_argnames="layer")
def _together(model: Decoder, texts: _Texts, delta: Array, *, layer: int) -> tuple[Array, Array]:
    """Of texts under one update, `(d, m)`: see `_said`."""
    return _said(model, texts, jnp.matmul(texts.keys, delta, precision="highest"), layer)


def _said(model: Decoder, texts: _Texts, moved: Array, layer: int) -> tuple[Array, Array]:
    """Log-probabilities of the predicted tokens, and whether they are the likeliest, `(k,)`."""
    block = jax.tree.map(lambda stacked: stacked[layer], model.blocks)
    x = block.write(texts.rest, texts.values + moved.astype(texts.values.dtype))
    x, _ = model.run(x, texts.mask, layers=range(layer + 1, model.config.num_layers))

    def one(place: tuple[Array, Array]) -> tuple[Array, Array]:
        here, token = place
        logits = model.finish(here[None, None])[0, 0]
        return jax.nn.log_softmax(logits)[token], jnp.argmax(logits) == token

    at_once = max(1, _MOST_LOGITS // model.config.vocab_size)
    places = (x[texts.rows, texts.columns], texts.tokens)
    return jax.lax.map(one, places, batch_size=min(at_once, len(texts.rows)))
