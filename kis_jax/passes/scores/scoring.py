"""How probable a model finds what follows a prompt."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from kis_jax.data.batches import Batch, fill_batches
from kis_jax.data.continuations import Continuation
from kis_jax.models import Decoder, Model
from kis_jax.passes.not_finite import NotFiniteError

# Logits that are held at a time, in numbers: 64 MiB, whatever the vocabulary.
_MOST_LOGITS = 2**24


@dataclasses.dataclass(frozen=True)
class Scores:
    """What a model makes of targets after their prompts.

    Attributes:
      log_probabilities: `(n,)` float64, of each target's tokens given all before them, the mean
        over the tokens.
      recalled: `(n,)` bool, whether every token of the target is the likeliest: greedy decoding
        of the prompt then gives the target.
      num_tokens: `(n,)` int, of each target.
    """

    log_probabilities: np.ndarray
    recalled: np.ndarray
    num_tokens: np.ndarray


def score(model: Model, continuations: Sequence[Continuation], *, token_budget: int) -> Scores:
    """Scores targets in padded batches; logits are taken where a target's token is predicted.

    Continuations that occur more than once, as those of neighbors do, are run once.

    Args:
      model: a decoder.
      continuations: prompts with their targets.
      token_budget: the most tokens run at once, padding included.

    Raises:
      ValueError: if the model is an encoder, or a continuation does not fit it; the subclass
        `NotFiniteError` if a probability comes out as NaN.

    Examples:
      >>> from kis_jax import load
      >>> from kis_jax.data.continuations import tokenize_continuations
      >>> model, tokenizer = load("factlm")
      >>> asked = tokenize_continuations(["Tomas Corvin was born in"] * 2,
      ...     ["Port Ravel", "Hexby"], tokenizer, context_length=96)
      >>> scores = score(model, asked, token_budget=256)
      >>> bool(scores.log_probabilities[0] > scores.log_probabilities[1])
      True
    """
    if not isinstance(model, Decoder):
        raise ValueError(
            f"model: expected a decoder, which predicts the next token, found {model.config.family}"
        )
    places: dict[tuple[int, ...], int] = {}
    keys = [(found.start, *found.tokens) for found in continuations]
    which = np.array([places.setdefault(key, len(places)) for key in keys], np.int64)
    starts, texts = [key[0] for key in places], [list(key[1:]) for key in places]
    total, recalled = np.zeros(len(places)), np.ones(len(places), bool)
    lengths = np.array([len(text) - start for start, text in zip(starts, texts, strict=True)], int)
    for batch in fill_batches(texts, model.config, token_budget=token_budget):
        rows, columns = _predicting(batch, starts)
        found, leads = _score(model, batch.tokens, batch.mask, *_padded(rows, columns))
        of = np.array(batch.rows)[rows]
        np.add.at(total, of, np.asarray(found, np.float64)[: len(of)])
        np.logical_and.at(recalled, of, np.asarray(leads)[: len(of)])
    if np.isnan(total).any():
        raise NotFiniteError(
            f"model: expected probabilities, found NaN for {np.isnan(total).sum()} of {len(total)} "
            "continuations; its weights have grown beyond what float32 can multiply"
        )
    return Scores((total / np.maximum(lengths, 1))[which], recalled[which], lengths[which])


def _predicting(batch: Batch, starts: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of every token that predicts one of a target, `(k,)` each."""
    first = np.array([starts[row] - 1 for row in batch.rows])
    # The last token of a text predicts what is not there.
    held = batch.mask[: len(batch.rows), 1:]
    rows, columns = np.nonzero(held & (np.arange(held.shape[1]) >= first[:, None]))
    return rows, columns


def _padded(*indices: np.ndarray) -> list[np.ndarray]:
    """Filled up with zeros to a power of two, at least 16, so that few shapes are compiled."""
    size = max(16, 1 << (len(indices[0]) - 1).bit_length())
    return [np.pad(index, (0, size - len(index))) for index in indices]


@jax.jit
def _score(
    model: Decoder, tokens: Array, mask: Array, rows: Array, columns: Array
) -> tuple[Array, Array]:
    """Log-probabilities of the tokens after these, `(k,)`, and whether they are the likeliest."""
    stream, _ = model.run(model.embed(tokens, mask), mask)

    def one(place: tuple[Array, Array]) -> tuple[Array, Array]:
        x, token = place
        logits = model.finish(x[None, None])[0, 0]
        return jax.nn.log_softmax(logits)[token], jnp.argmax(logits) == token

    # As many places at once as the vocabulary lets be held.
    at_once = max(1, _MOST_LOGITS // model.config.vocab_size)
    places = (stream[rows, columns], tokens[rows, columns + 1])
    return jax.lax.map(one, places, batch_size=min(at_once, len(rows)))
