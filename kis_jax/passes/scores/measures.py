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
from kis_jax.data.layout_values import MULTI_HOP
from kis_jax.models import Model
from kis_jax.passes.intervals import mean_intervals
from kis_jax.passes.scores.scoring import score

Kind = Literal["efficacy", "paraphrase", "neighborhood"]
KINDS: tuple[Kind, ...] = get_args(Kind)
_VARIANTS = ("", "_magnitude", "_accuracy")
# What follows from a fact has no second target to be compared with, only answers.
_FOLLOWING = ("portability", "multi_hop")


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """How well each fact's edit took, on its own prompt, in other words, and beside it.

    Each is `(n,)` float64, the mean over the fact's prompts of that kind, NaN if it has none. The
    target's probability p is the geometric mean over its tokens; of a target with aliases that of
    the likeliest.

    Two families are told apart. *Success* compares two targets: efficacy and paraphrase are the
    share of prompts with p(new) > p(true), neighborhood that with p(true) > p(new); a magnitude is
    the mean of the difference. Both are NaN for a fact without a true target, but for neighbors
    that bring their own. *Accuracy* asks for the whole target, or an alias, by greedy decoding
    given its own earlier tokens: of the new one, for neighborhood of the true one, and for what
    follows from the fact of one of its answers.

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
      portability_accuracy: share of the questions of `Fact.portability` that yield an answer, in
        one of their wordings; those of more than one hop left out.
      multi_hop_accuracy: that of these.

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
    portability_accuracy: np.ndarray
    multi_hop_accuracy: np.ndarray

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


MEASURES = (
    *(f"{kind}{variant}" for variant in _VARIANTS for kind in KINDS),
    *(f"{kind}_accuracy" for kind in _FOLLOWING),
)


@dataclasses.dataclass(frozen=True)
class _Asked:
    """A question: of which fact it is, and the answers that ought to win and to lose."""

    row: int
    kind: str
    prompts: tuple[str, ...]
    right: tuple[str, ...]
    wrong: tuple[str, ...] = ()


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
      facts: each with a new target; see `Evaluation` for those without a true one.
      token_budget: the most tokens run at once, padding included; chosen from memory if None.

    Returns:
      See `Evaluation`: its `summary()` has the means over facts, its `records()` each fact's.

    Raises:
      ValueError: if a fact lacks a new target, or a prompt cannot be scored; names it.

    Examples:
      >>> from kis_jax import load
      >>> from kis_jax.data.facts import read_facts
      >>> model, tokenizer = load("factlm")
      >>> found = evaluate(model, tokenizer, read_facts("factlm", 4))
      >>> found.efficacy.tolist(), found.neighborhood_accuracy.tolist()
      ([0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0])
    """
    asked = Questions(facts, tokenizer, context_length=model.config.context_length)
    budget = default_budget(model.config) if token_budget is None else token_budget
    scores = score(model, asked.continuations, token_budget=budget)
    return asked.evaluation(scores.log_probabilities, scores.recalled)


class Questions:
    """All that is asked about some facts, as continuations to be scored, and what scores tell.

    Attributes:
      continuations: prompts with their answers, right and wrong ones.
      rows: of which fact each of them is, `(c,)` int.
    """

    def __init__(
        self, facts: Sequence[Fact], tokenizer: PreTrainedTokenizerFast, *, context_length: int
    ) -> None:
        """Asks all prompts of the facts; raises ValueError as `evaluate`."""
        _check(facts)
        self._case_ids = tuple(fact.case_id for fact in facts)
        self._asked = list(_questions(facts))
        told = [
            (place, wins, prompt, answer)
            for place, question in enumerate(self._asked)
            for wins, answers in ((True, question.right), (False, question.wrong))
            for prompt in question.prompts
            for answer in answers
        ]
        self.continuations = tokenize_continuations(
            [prompt for *_, prompt, _ in told],
            [answer for *_, answer in told],
            tokenizer,
            context_length=context_length,
        )
        self._places = np.array([place for place, *_ in told], int)
        self._wins = np.array([wins for _, wins, *_ in told], bool)
        self._of = np.array([question.row for question in self._asked], int)
        self.rows = self._of[self._places]

    def evaluation(self, log_probabilities: np.ndarray, told: np.ndarray) -> Evaluation:
        """What scores of the continuations tell.

        Args:
          log_probabilities: of each, the mean over its tokens, `(c,)`.
          told: whether greedy decoding gives it, `(c,)` bool.
        """
        asked, places, wins, rows = self._asked, self._places, self._wins, self._of
        logs = np.full((2, len(asked)), -np.inf)
        np.maximum.at(logs, (wins.astype(int), places), log_probabilities)
        recalled = np.zeros(len(asked), bool)
        np.logical_or.at(recalled, places[wins], told[wins])
        success = logs[1] > logs[0]  # also where both p underflow
        difference = np.exp(logs[1]) - np.exp(logs[0])
        kinds = np.array([question.kind for question in asked])
        compared = np.array([bool(question.wrong) for question in asked], bool)
        columns = {}
        for name in MEASURES:
            kind = next(kind for kind in (*KINDS, *_FOLLOWING) if name.startswith(kind))
            of = kinds == kind
            outcome = recalled
            if not name.endswith("_accuracy"):
                of, outcome = of & compared, difference if name.endswith("_magnitude") else success
            columns[name] = _mean_by_fact(rows[of], outcome[of], len(self._case_ids))
        return Evaluation(self._case_ids, **columns)


def _check(facts: Sequence[Fact]) -> None:
    """Raises ValueError naming the first fact that cannot be asked."""
    for fact in facts:
        if not fact.target_new:
            raise ValueError(
                f"fact {fact.case_id}: expected a new target, found no target_new; add it, or "
                "leave the fact out"
            )
        asked, told = len(fact.neighborhood_prompts), len(fact.neighborhood_targets)
        if told not in (0, asked):
            raise ValueError(
                f"fact {fact.case_id}: neighborhood_targets: expected none, or one for each of "
                f"{asked} prompts, found {told}"
            )


def _questions(facts: Sequence[Fact]) -> Iterator[_Asked]:
    """Everything that is asked."""
    for row, fact in enumerate(facts):
        new = (fact.target_new, *fact.new_aliases)
        true = (fact.target_true, *fact.true_aliases) if fact.target_true else ()
        yield _Asked(row, "efficacy", (fact.text,), new, true)
        for prompt in fact.paraphrase_prompts:
            yield _Asked(row, "paraphrase", (prompt,), new, true)
        near = len(fact.neighborhood_prompts)
        aliases = fact.neighborhood_aliases or ((),) * near
        told = zip(fact.neighborhood_targets, aliases, strict=False)  # none, or one for each
        own = [(target, *more) for target, more in told]
        for prompt, holds in zip(fact.neighborhood_prompts, own or [true] * near, strict=True):
            if holds:
                yield _Asked(row, "neighborhood", (prompt,), holds, new)
        for question in fact.portability:
            kind = "multi_hop" if question.kind == MULTI_HOP else "portability"
            yield _Asked(row, kind, question.prompts, question.answers)


def _mean_by_fact(rows: np.ndarray, outcomes: np.ndarray, num_facts: int) -> np.ndarray:
    """Mean outcome of each fact's questions, NaN where it has none."""
    count = np.bincount(rows, minlength=num_facts)
    total = np.bincount(rows, weights=outcomes.astype(np.float64), minlength=num_facts)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _plain(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
