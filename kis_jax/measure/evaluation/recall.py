"""Which facts a model knows before anything is written into it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from transformers import PreTrainedTokenizerFast

from kis_jax.data.batches import token_budget as default_budget
from kis_jax.data.continuations import tokenize_continuations
from kis_jax.data.facts import Fact
from kis_jax.measure.evaluation.scoring import score
from kis_jax.models import Model


def recall(
    model: Model,
    tokenizer: PreTrainedTokenizerFast,
    facts: Sequence[Fact],
    *,
    token_budget: int | None = None,
) -> np.ndarray:
    """Whether a model says what is true of each fact.

    A fact is known if greedy decoding of its prompt begins with its true target, or with another
    name of it.

    Args:
      model: a decoder.
      tokenizer: of the model.
      facts: with a `target_true` each.
      token_budget: the most tokens run at once, padding included; chosen from memory if None.

    Returns:
      `(n,)` bool.

    Raises:
      ValueError: if a fact has no true target, or the model cannot be asked for it; names it.

    Example:
      >>> from kis_jax import load
      >>> from kis_jax.data.facts import read_facts
      >>> model, tokenizer = load("factlm")
      >>> recall(model, tokenizer, read_facts("factlm", 4)).tolist()
      [True, True, True, True]
    """
    asked: list[tuple[int, str, str]] = []
    for row, fact in enumerate(facts):
        if not fact.target_true:
            raise ValueError(
                f"fact {fact.case_id}: expected a true target, found none; add it, or leave the "
                "fact out"
            )
        asked += [(row, fact.text, name) for name in (fact.target_true, *fact.true_aliases)]
    continuations = tokenize_continuations(
        [prompt for _, prompt, _ in asked],
        [target for *_, target in asked],
        tokenizer,
        context_length=model.config.context_length,
    )
    budget = default_budget(model.config) if token_budget is None else token_budget
    known = np.zeros(len(facts), bool)
    rows = np.array([row for row, *_ in asked], int)
    np.logical_or.at(known, rows, score(model, continuations, token_budget=budget).recalled)
    return known
