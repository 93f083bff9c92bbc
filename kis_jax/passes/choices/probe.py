"""Puzzles as a probe: what becomes of a decoder's answers while it is edited."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from transformers import PreTrainedTokenizerFast

from kis_jax.data.batches import token_budget
from kis_jax.data.puzzles import Puzzle, puzzles_fingerprint, read_sources
from kis_jax.models import Model, ModelConfig
from kis_jax.passes.choices.metrics import choice_metrics, predictions_of
from kis_jax.passes.choices.scores import likelihood_scores
from kis_jax.passes.not_finite import NotFiniteError

_KIND = "mcqa"


@dataclasses.dataclass(frozen=True)
class PuzzleProbe:
    """A function of a decoder: how well it answers puzzles, by the likelihood of their choices.

    Attributes:
      puzzles: with right answers.
      tokenizer: of the model.
      token_budget: the most tokens run at once, padding included.
    """

    puzzles: Sequence[Puzzle]
    tokenizer: PreTrainedTokenizerFast
    token_budget: int

    def __call__(self, model: Model) -> dict[str, float]:
        """Accuracy of all puzzles, of whole groups where there are some, and without the prior.

        NaN throughout for a model whose numbers are beyond float32.
        """
        try:
            scores = likelihood_scores(
                model, self.tokenizer, self.puzzles, token_budget=self.token_budget
            )
            found = self._told(scores.after_question), self._told(scores.without_prior)
        except NotFiniteError:
            guess = self._told(np.zeros((len(self.puzzles), 1)))
            found = dict.fromkeys(guess, np.nan), dict.fromkeys(guess, np.nan)
        plain, without_prior = found
        return {**plain, "puzzles, without prior": without_prior["puzzles"]}

    @property
    def fingerprint(self) -> str:
        """Of the puzzles."""
        return puzzles_fingerprint(self.puzzles)

    def _told(self, scores: np.ndarray) -> dict[str, float]:
        metrics = choice_metrics(self.puzzles, predictions_of(scores))
        names = {"overall": "puzzles", "all_variants": "puzzles, all variants"}
        return {
            words: float(metrics[name]["mean"] or 0.0)
            for name, words in names.items()
            if name in metrics
        }


def open_probe(text: str, tokenizer: PreTrainedTokenizerFast, config: ModelConfig) -> PuzzleProbe:
    """The probe that an option such as "mcqa:factlm-test" asks for.

    Args:
      text: "mcqa:" and files of puzzles, joined by commas.
      tokenizer: of the model that is edited.
      config: of that model.

    Raises:
      ValueError: if the text is of another form, or at what is wrong with the puzzles.
    """
    kind, _, sources = text.partition(":")
    if kind != _KIND or not sources:
        raise ValueError(
            f"probe: expected {_KIND}: and a file of puzzles, such as {_KIND}:factlm-test, found "
            f"{text!r}"
        )
    probe = PuzzleProbe(read_sources(sources), tokenizer, token_budget(config))
    choice_metrics(probe.puzzles, np.zeros(len(probe.puzzles), int))  # groups lack no variant
    return probe
