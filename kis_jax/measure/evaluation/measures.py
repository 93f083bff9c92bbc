"""What an edit does to a model, by the measures of the editing literature."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, Literal, get_args

import numpy as np
from transformers import PreTrainedTokenizerFast

from kis_jax.data.batches import token_budget as default_budget
from kis_jax.data.continuations import tokenize_continuations
from kis_jax.data.facts import Fact
from kis_jax.measure.evaluation.scoring import score
from kis_jax.measure.intervals import mean_intervals
from kis_jax.models import Model

Kind = Literal["efficacy", "paraphrase", "neighborhood"]
KINDS: tuple[Kind, ...] = get_args(Kind)
_VARIANTS = ("", "_magnitude", "_accuracy")


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """How well each fact's edit took, on its own prompt, in other words, and beside it.

    Each is `(n,)` float64, the mean over the fact's prompts of that kind, NaN if it has none. The
    target's probability p is the geometric mean over its tokens.

    Two families are told apart. *Success* compares two targets: efficacy and paraphrase are the
    share of prompts with p(new) > p(true), neighborhood that with p(true) > p(new); a magnitude is
    the mean of the difference. *Accuracy* asks for the whole target by greedy decoding given its
    own earlier tokens: of the new one, for neighborhood of the true one.

    Attributes:
      case_ids: of the facts, in their order.
      efficacy: success on the fact's prompt.
      paraphrase: success on its paraphrases.
      neighborhood: success on prompts about other subjects, for which the true target holds.
      efficacy_magnitude: p(new) - p(true).
      paraphrase_magnitude: p(new) - p(true).
      neighborhood_magnitude: p(true) - p(new).
      efficacy_accuracy: share of prompts that yield the new target.
      paraphrase_accuracy: share of prompts that yield the new target.
      neighborhood_accuracy: share of prompts that yield the true target.

    Reference: Meng et al. 2022 (arXiv 2202.05262), section 3.3.
    """

    case_ids: tuple[int | str, ...]
    efficacy: np.ndarray
    paraphrase: np.ndarray
    neighborhood: np.ndarray
    efficacy_magnitude: np.ndarray
    paraphrase_magnitude: np.ndarray
    neighborhood_magnitude: np.ndarray
    efficacy_accuracy: np.ndarray
    paraphrase_accuracy: np.ndarray
    neighborhood_accuracy: np.ndarray

    def measures(self) -> dict[str, np.ndarray]:
        """All measures by their names, `(n,)` each."""
        return {name: getattr(self, name) for name in MEASURES}

    def summary(self, seed: int = 0) -> dict[str, dict[str, float | int | None]]:
        """Means over facts with bootstrap 95 % intervals; see `mean_intervals`.

        Returns:
          For each measure, and for "score", the harmonic mean of the three successes: `mean`,
          `low`, `high`, `count`, as plain JSON.
        """
        return mean_intervals(self.measures(), combined=KINDS, seed=seed)

    def records(self) -> list[dict[str, Any]]:
        """One object for each fact, as plain JSON: its `case_id` and measures, None for NaN."""
        columns = self.measures()
        return [
            {"case_id": case_id} | {name: _plain(column[row]) for name, column in columns.items()}
            for row, case_id in enumerate(self.case_ids)
        ]


MEASURES = tuple(f"{kind}{variant}" for variant in _VARIANTS for kind in KINDS)


def evaluate(
    model: Model,
    tokenizer: PreTrainedTokenizerFast,
    facts: Sequence[Fact],
    *,
    token_budget: int | None = None,
) -> Evaluation:
    """Measures how a model, edited or not, answers for some facts.

    All prompts of the facts are asked. Where facts are edited together, those about neighbors that
    are edited too count successes as damage: see `kis_jax.data.neighbors`.

    Args:
      model: a decoder.
      tokenizer: of the model.
      facts: each with both of its targets.
      token_budget: the most tokens run at once, padding included; chosen from memory if None.

    Returns:
      See `Evaluation`: its `summary()` has the means over facts, its `records()` each fact's.

    Raises:
      ValueError: if a fact lacks a target, or a prompt cannot be scored; names it.

    Example:
      >>> from kis_jax import load
      >>> from kis_jax.data.facts import read_facts
      >>> model, tokenizer = load("factlm")
      >>> found = evaluate(model, tokenizer, read_facts("factlm", 4))
      >>> found.efficacy.tolist(), found.neighborhood_accuracy.tolist()
      ([0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0])
    """
    _check(facts)
    # Each question twice: with the new target and with the true one.
    asked = list(_questions(facts))
    continuations = tokenize_continuations(
        [prompt for _, _, prompt, *_ in asked for _ in range(2)],
        [target for *_, new, true in asked for target in (new, true)],
        tokenizer,
        context_length=model.config.context_length,
    )
    budget = default_budget(model.config) if token_budget is None else token_budget
    scores = score(model, continuations, token_budget=budget)
    probabilities = np.exp(scores.log_probabilities).reshape(-1, 2)
    rows = np.array([row for row, *_ in asked], int)
    kinds = np.array([kind for _, kind, *_ in asked])
    columns = {}
    for kind in KINDS:
        wanted = 1 if kind == "neighborhood" else 0  # the target that ought to win
        of = kinds == kind
        difference = probabilities[of, wanted] - probabilities[of, 1 - wanted]
        logs = scores.log_probabilities.reshape(-1, 2)[of]
        success = logs[:, wanted] > logs[:, 1 - wanted]  # also where both p underflow
        recalled = scores.recalled.reshape(-1, 2)[of, wanted]
        for variant, outcome in zip(_VARIANTS, (success, difference, recalled), strict=True):
            columns[f"{kind}{variant}"] = _mean_by_fact(rows[of], outcome, len(facts))
    return Evaluation(tuple(fact.case_id for fact in facts), **columns)


def _check(facts: Sequence[Fact]) -> None:
    """Raises ValueError naming the first fact that lacks a target."""
    for fact in facts:
        if not (fact.target_new and fact.target_true):
            missing = "target_true" if fact.target_new else "target_new"
            raise ValueError(
                f"fact {fact.case_id}: expected a true and a new target, found no {missing}; add "
                "it, or leave the fact out"
            )
        asked, told = len(fact.neighborhood_prompts), len(fact.neighborhood_targets)
        if told not in (0, asked):
            raise ValueError(
                f"fact {fact.case_id}: neighborhood_targets: expected none, or one for each of "
                f"{asked} prompts, found {told}"
            )


def _questions(facts: Sequence[Fact]) -> Iterator[tuple[int, Kind, str, str, str]]:
    """Place of the fact, kind, prompt, new and true target of everything that is asked."""
    for row, fact in enumerate(facts):
        new, true = fact.target_new, fact.target_true
        yield row, "efficacy", fact.text, new, true
        for prompt in fact.paraphrase_prompts:
            yield row, "paraphrase", prompt, new, true
        own = fact.neighborhood_targets or (true,) * len(fact.neighborhood_prompts)
        for prompt, holds in zip(fact.neighborhood_prompts, own, strict=True):
            yield row, "neighborhood", prompt, new, holds


def _mean_by_fact(rows: np.ndarray, outcomes: np.ndarray, num_facts: int) -> np.ndarray:
    """Mean outcome of each fact's questions, NaN where it has none."""
    count = np.bincount(rows, minlength=num_facts)
    total = np.bincount(rows, weights=outcomes.astype(np.float64), minlength=num_facts)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _plain(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
