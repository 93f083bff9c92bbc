"""Edits tried without making them: every fact's own in one pass, over what no edit changes."""

from __future__ import annotations

import dataclasses
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
from kis_jax.models.stack import precision
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
        rows = [*self._questions.rows.tolist(), *[0] * len(text)]
        self._lengths = np.array([len(one.tokens) - one.start for one in told])
        # Nothing is predicted from a last token, so that answers of one are read off one text.
        answers: dict[tuple[int, ...], list[int]] = {}
        for place, (row, one) in enumerate(zip(rows, told, strict=True)):
            answers.setdefault((row, *one.tokens[:-1]), []).append(place)
        facts_of = np.array([row for row, *_ in answers])
        budget = default_budget(config) if token_budget is None else token_budget
        self._batches = []
        texts = (list(tokens) for _, *tokens in answers)
        asked_of = list(answers.values())
        for batch in fill_batches(texts, config, token_budget=budget):
            said = [
                (row, place, column, token)
                for row, text_of in enumerate(batch.rows)
                for place in asked_of[text_of]
                for column, token in enumerate(told[place].tokens[1:])
                if column >= told[place].start - 1
            ]
            at, places, columns, tokens = np.array(said).T
            size = max(64, 1 << (len(at) - 1).bit_length())
            padded = [np.pad(index, (0, size - len(index))) for index in (at, columns, tokens)]
            shown = _up_to(model, batch.tokens, batch.mask, jnp.asarray(layer))
            own = np.zeros(len(batch.tokens), int)
            own[: len(batch.rows)] = facts_of[list(batch.rows)]
            held = _Texts(*shown, *map(jnp.asarray, (batch.mask, *padded)))
            self._batches.append(_Batch(held, places, own))

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
                jnp.asarray(self._layer),
            )
        )

    def together(self, delta: np.ndarray) -> tuple[Evaluation, np.ndarray]:
        """All facts, and the text, asked of the model with one update of the kernel, `(d, m)`."""
        update = jnp.asarray(delta, jnp.float32)
        return self._told(
            lambda batch: _together(self._model, batch.texts, update, jnp.asarray(self._layer))
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


@jax.jit
def _up_to(model: Decoder, tokens: Array, mask: Array, layer: Array) -> tuple[Array, Array, Array]:
    """Keys, values and the rest of the stream at a layer; one program for all layers."""
    x, _ = model.run(model.embed(tokens, mask), mask, between=(jnp.zeros_like(layer), layer))
    run_block, per_layer = model.layers(mask)
    block, own = jax.tree.map(lambda stacked: stacked[layer], (model.blocks, per_layer))
    with precision(model.dtype):
        _, shown = run_block(block, x, own, None, None)
    return shown.keys, shown.values, shown.rest


@jax.jit
def _alone(
    model: Decoder, texts: _Texts, along: Array, residuals: Array, layer: Array
) -> tuple[Array, Array]:
    """Of texts with an edit each, `(b, d)` and `(b, m)`: see `_said`."""
    shares = jnp.matmul(texts.keys, along[..., None], precision="highest")
    return _said(model, texts, shares * residuals[:, None], layer)


@jax.jit
def _together(model: Decoder, texts: _Texts, delta: Array, layer: Array) -> tuple[Array, Array]:
    """Of texts under one update, `(d, m)`: see `_said`."""
    return _said(model, texts, jnp.matmul(texts.keys, delta, precision="highest"), layer)


def _said(model: Decoder, texts: _Texts, moved: Array, layer: Array) -> tuple[Array, Array]:
    """Log-probabilities of the predicted tokens, and whether they are the likeliest, `(k,)`."""
    block = jax.tree.map(lambda stacked: stacked[layer], model.blocks)
    x = block.write(texts.rest, texts.values + moved.astype(texts.values.dtype))
    upper = (layer + 1, jnp.asarray(model.config.num_layers))
    x, _ = model.run(x, texts.mask, between=upper)

    def one(place: tuple[Array, Array]) -> tuple[Array, Array]:
        here, token = place
        logits = model.finish(here[None, None])[0, 0]
        return jax.nn.log_softmax(logits)[token], jnp.argmax(logits) == token

    at_once = max(1, _MOST_LOGITS // model.config.vocab_size)
    places = (x[texts.rows, texts.columns], texts.tokens)
    return jax.lax.map(one, places, batch_size=min(at_once, len(texts.rows)))
