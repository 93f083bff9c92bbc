"""Trying edits in memory before they are made, on a sample of prompts."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from transformers import PreTrainedTokenizerFast

from kis_jax.data.batches import fill_batches
from kis_jax.data.continuations import Continuation, tokenize_continuations
from kis_jax.data.facts import Fact
from kis_jax.models import Decoder
from kis_jax.passes.scores.scoring import score


@dataclasses.dataclass(frozen=True)
class Rehearsal:
    """What an edited model makes of a sample of prompts.

    Attributes:
      effect: mean probability of the new target after the prompts of edited facts; a target's is
        the geometric mean over its tokens.
      carried: the same after their paraphrases; that of `effect` where there are none.
      stays: of texts to be left alone, the mean part of the probability of the next token that
        the edited and the unedited model have in common, the sum of the lesser of both: 0 to 1.
    """

    effect: float
    carried: float
    stays: float

    @property
    def score(self) -> float:
        """The harmonic mean of the three."""
        parts = (self.effect, self.carried, self.stays)
        return 3 / sum(1 / part for part in parts) if min(parts) > 0 else 0.0


class Rehearsals:
    """A sample of prompts, tokenised once, and what the unedited model says after them.

    Examples:
      >>> from kis_jax import load
      >>> from kis_jax.data.facts import read_facts
      >>> model, tokenizer = load("factlm")
      >>> stage = Rehearsals(
      ...     model, tokenizer, read_facts("factlm", 2), ["Tomas Corvin was born in"],
      ...     token_budget=256)
      >>> unedited = stage.of(model, [0, 1])
      >>> round(unedited.stays, 3), unedited.effect < 0.1
      (1.0, True)
    """

    def __init__(
        self,
        model: Decoder,
        tokenizer: PreTrainedTokenizerFast,
        facts: Sequence[Fact],
        others: Sequence[str],
        *,
        token_budget: int,
    ) -> None:
        """Asks the unedited model.

        Args:
          model: as it is before all edits.
          tokenizer: of the model.
          facts: that come into question, each with a `target_new`.
          others: texts to be left alone.
          token_budget: the most tokens run at once, padding included.

        Raises:
          ValueError: if there are no texts, or one does not fit the model.
        """
        if not others:
            raise ValueError("others: expected at least one text to be left alone, found none")
        length = model.config.context_length
        self._budget = token_budget

        def asked(prompts: Sequence[str], target: str) -> list[Continuation]:
            """The target after each of the prompts that say anything."""
            told = [prompt for prompt in prompts if prompt.strip()]
            return tokenize_continuations(
                told, [target] * len(told), tokenizer, context_length=length
            )

        self._asked = [asked([fact.text], fact.target_new) for fact in facts]
        self._paraphrased = [asked(fact.paraphrase_prompts, fact.target_new) for fact in facts]
        self._others = [list(tokenizer(text)["input_ids"]) for text in others]
        self._before = self._next_tokens(model)

    def of(self, model: Decoder, places: Sequence[int] | np.ndarray) -> Rehearsal:
        """What an edited model says of the facts at these places, and of the texts left alone."""
        effect = self._probability(model, [self._asked[place] for place in places])
        carried = self._probability(model, [self._paraphrased[place] for place in places])
        common = [
            np.minimum(before, after).sum(axis=-1)
            for before, after in zip(self._before, self._next_tokens(model), strict=True)
        ]
        stays = float(np.concatenate(common).mean())
        return Rehearsal(effect, effect if np.isnan(carried) else carried, stays)

    def _probability(self, model: Decoder, asked: list[list[Continuation]]) -> float:
        """Mean probability of the targets; NaN if nothing is asked."""
        every = [one for of_fact in asked for one in of_fact]
        if not every:
            return float("nan")
        found = score(model, every, token_budget=self._budget)
        return float(np.exp(found.log_probabilities).mean())

    def _next_tokens(self, model: Decoder) -> list[np.ndarray]:
        """Probabilities of the token after each text, `(texts, v)` for each batch of them."""
        found = []
        for batch in fill_batches(self._others, model.config, token_budget=self._budget):
            ends = batch.mask.sum(axis=1) - 1
            after = _after(model, *map(jnp.asarray, (batch.tokens, batch.mask, ends)))
            found.append(np.asarray(after)[: len(batch.rows)])
        return found


@jax.jit
def _after(model: Decoder, tokens: Array, mask: Array, ends: Array) -> Array:
    """Probabilities of the token after the one at `ends`, `(b, v)` float32."""
    stream, _ = model.run(model.embed(tokens, mask), mask)
    last = stream[jnp.arange(len(tokens)), ends]
    return jax.nn.softmax(model.finish(last).astype(jnp.float32), axis=-1)
