"""What a model makes of the choices of puzzles: an encoder by its head, a decoder by likelihood."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np
from transformers import PreTrainedTokenizerFast

from kis_jax.data.choices import TokenizedPuzzle, in_batches, tokenize_choices
from kis_jax.data.continuations import tokenize_continuations
from kis_jax.data.puzzles import Puzzle
from kis_jax.models import Model, MultipleChoice
from kis_jax.passes.not_finite import NotFiniteError
from kis_jax.passes.scores.scoring import score

PROMPT = "{}"
PRIOR_PROMPT = "Answer:"


@dataclasses.dataclass(frozen=True)
class LikelihoodScores:
    """Log-likelihoods of choices, each the mean over its tokens.

    Attributes:
      after_question: `(n, c)` float64, after the puzzle's question.
      prior: `(n, c)` float64, after a prompt that asks nothing.
    """

    after_question: np.ndarray
    prior: np.ndarray

    @property
    def without_prior(self) -> np.ndarray:
        """How much the question adds to the likelihood of each choice, `(n, c)`.

        A choice of common words is likely after any question.

        Reference: Holtzman et al. 2021 (arXiv 2104.08315), with means over tokens.
        """
        return self.after_question - self.prior


def head_scores(
    model: MultipleChoice,
    tokenizer: PreTrainedTokenizerFast,
    puzzles: Sequence[Puzzle],
    *,
    rows: int = 32,
) -> np.ndarray:
    """Logits of the choices by the head of an encoder, `(n, c)` float64.

    Args:
      model: an encoder with a head over choices.
      tokenizer: of the model.
      puzzles: with one number of choices.
      rows: puzzles run at once.

    Raises:
      ValueError: naming a puzzle that does not fit the model; the subclass `NotFiniteError` if a
        logit comes out as NaN.
    """
    tokenized = tokenize_choices(puzzles, tokenizer, model.config)
    logits = logits_of(model, tokenized, rows=rows)
    if np.isnan(logits).any():
        raise NotFiniteError("model: expected a logit of each choice, found NaN; train it anew")
    return _without_missing(puzzles, logits)


def logits_of(
    model: MultipleChoice, puzzles: Sequence[TokenizedPuzzle], *, rows: int
) -> np.ndarray:
    """Logits of the choices of puzzles in tokens, `(n, c)` float64, so many puzzles at once."""
    batches = in_batches(puzzles, rows=min(rows, len(puzzles)), most=model.config.context_length)
    found = [_run(model, batch.tokens, batch.mask, batch.types) for batch in batches]
    return np.concatenate([np.asarray(part, np.float64) for part in found])[: len(puzzles)]


def likelihood_scores(
    model: Model,
    tokenizer: PreTrainedTokenizerFast,
    puzzles: Sequence[Puzzle],
    *,
    token_budget: int,
    prompt: str = PROMPT,
    prior_prompt: str = PRIOR_PROMPT,
) -> LikelihoodScores:
    """Log-likelihoods of the choices by a decoder.

    Args:
      model: a decoder.
      tokenizer: of the model.
      puzzles: with one number of choices.
      token_budget: the most tokens run at once, padding included.
      prompt: with one `{}` where the question belongs.
      prior_prompt: what stands before a choice where nothing is asked.

    Raises:
      ValueError: if the model is an encoder, a prompt is not of its form, or a choice with its
        prompt does not fit the model; the subclass `NotFiniteError` if a likelihood is NaN.

    Examples:
      >>> from kis_jax import load
      >>> model, tokenizer = load("factlm")
      >>> puzzle = Puzzle("a", "Tomas Corvin was born in", ("Hexby", "Port Ravel"), 1)
      >>> scores = likelihood_scores(model, tokenizer, [puzzle], token_budget=256)
      >>> int(scores.after_question.argmax()), int(scores.without_prior.argmax())
      (1, 1)
    """
    if prompt.count("{}") != 1:
        raise ValueError(f"prompt: expected one {{}} for the question, found {prompt!r}")
    if not prior_prompt.strip() or "{}" in prior_prompt:
        raise ValueError(
            f"prior_prompt: expected a text without a question, found {prior_prompt!r}"
        )

    def scored(prompts: list[str]) -> np.ndarray:
        targets = [choice for puzzle in puzzles for choice in puzzle.spoken]
        context = model.config.context_length
        asked = tokenize_continuations(prompts, targets, tokenizer, context_length=context)
        found = score(model, asked, token_budget=token_budget).log_probabilities
        return _without_missing(puzzles, found.reshape(len(puzzles), -1))

    repeated = [puzzle for puzzle in puzzles for _ in puzzle.choices]
    return LikelihoodScores(
        scored([prompt.replace("{}", puzzle.question) for puzzle in repeated]),
        scored([prior_prompt] * len(repeated)),
    )


def _without_missing(puzzles: Sequence[Puzzle], scores: np.ndarray) -> np.ndarray:
    """The scores, a choice that is missing one below the least of its puzzle: never taken."""
    missing = np.array([[not choice for choice in puzzle.choices] for puzzle in puzzles], bool)
    return np.where(missing, scores.min(axis=1, keepdims=True) - 1, scores)


@jax.jit
def _run(model: MultipleChoice, tokens: jax.Array, mask: jax.Array, types: jax.Array) -> jax.Array:
    return model(tokens, mask, types)
