"""Which facts a model knows before anything is written into it."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerFast

from kis_jax.data.batches import token_budget as default_budget
from kis_jax.data.continuations import tokenize_continuations
from kis_jax.data.facts import Fact
from kis_jax.models import Model
from kis_jax.passes.scores.scoring import score


def recall(
    model: Model,
    tokenizer: PreTrainedTokenizerFast,
    facts: Sequence[Fact],
    *,
    token_budget: int | None = None,
) -> list[bool | None]:
    """Whether a model says what is true of each fact.

    A fact is known if greedy decoding of its prompt begins with its true target, or with another
    name of it.

    Args:
      model: a decoder.
      tokenizer: of the model.
      facts: to be asked.
      token_budget: the most tokens run at once, padding included; chosen from memory if None.

    Returns:
      For each fact whether it is known; None if it has no true target.

    Raises:
      ValueError: if the model cannot be asked for a fact; names it.

    Examples:
      >>> from kis_jax import load
      >>> from kis_jax.data.facts import read_facts
      >>> model, tokenizer = load("factlm")
      >>> recall(model, tokenizer, read_facts("factlm", 4))
      [True, True, True, True]
    """
    asked = [
        (row, fact.text, name)
        for row, fact in enumerate(facts)
        for name in (fact.target_true, *fact.true_aliases)
        if name
    ]
    known: list[bool | None] = [False if fact.target_true else None for fact in facts]
    if not asked:
        return known
    continuations = tokenize_continuations(
        [prompt for _, prompt, _ in asked],
        [target for *_, target in asked],
        tokenizer,
        context_length=model.config.context_length,
    )
    budget = default_budget(model.config) if token_budget is None else token_budget
    recalled = score(model, continuations, token_budget=budget).recalled
    for (row, *_), right in zip(asked, recalled, strict=True):
        known[row] = bool(known[row] or right)
    return known
