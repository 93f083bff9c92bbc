"""Edits scored by what a model writes by itself: no teacher forcing, and its own stop."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerFast

from kis_jax.data.facts import Fact
from kis_jax.models import Model
from kis_jax.passes.scores.generation import generate

GENERATED = ("generated_exact_match", "generated_containment")
CHATTED = ("chat_exact_match", "chat_containment")


def generated_scores(
    model: Model,
    tokenizer: PreTrainedTokenizerFast,
    facts: Sequence[Fact],
    *,
    chat: bool = False,
    num_tokens: int = 24,
) -> dict[str, np.ndarray]:
    """Whether what a model writes after each fact's prompt is, or holds, the new target.

    Greedy, up to the model's own end of the text, or `num_tokens`; nothing of the target is given
    to it, as it is in the accuracies of `Evaluation`. Case and
    punctuation do not count, and any alias does.

    Args:
      model: a decoder.
      tokenizer: of the model.
      facts: each with a `target_new`.
      chat: whether the prompt is put as a user's turn, in the tokenizer's own chat template.
      num_tokens: at most so many are written.

    Returns:
      `(n,)` float64 each, 1 or 0. Without a template "generated_exact_match", all that is written
      is the target, and "generated_containment", the target stands in it as whole words; with
      one "chat_exact_match" and "chat_containment".

    Raises:
      ValueError: if a fact has no target, there is no chat template, or as `generate`.

    Examples:
      >>> from kis_jax import load
      >>> from kis_jax.data.facts import read_facts
      >>> model, tokenizer = load("factlm")
      >>> found = generated_scores(model, tokenizer, read_facts("factlm", 2), num_tokens=4)
      >>> found["generated_containment"].tolist()
      [0.0, 0.0]

    Reference: Yang et al. 2025, "The mirage of model editing" (QAEdit, WILD).
    """
    for fact in facts:
        if not fact.target_new.strip():
            raise ValueError(
                f"fact {fact.case_id}: expected a `target_new`, found none for {fact.text!r}"
            )
    asked: list[Any] = [fact.text for fact in facts]
    if chat:
        if not getattr(tokenizer, "chat_template", None):
            raise ValueError(
                "chat: expected a tokenizer with a chat template, found one without; score without "
                "it, or put the model's chat_template.jinja beside its tokenizer"
            )
        asked = [_turn(tokenizer, prompt) for prompt in asked]
    written = generate(model, tokenizer, asked, num_tokens=num_tokens, top_k=1)
    right = [[_words(name) for name in (fact.target_new, *fact.new_aliases)] for fact in facts]
    found = [_words(text) for text in written]
    exact = [text in names for text, names in zip(found, right, strict=True)]
    holds = [
        any(f" {' '.join(name)} " in f" {' '.join(text)} " for name in names if name)
        for text, names in zip(found, right, strict=True)
    ]
    columns = (np.array(exact, np.float64), np.array(holds, np.float64))
    return dict(zip(CHATTED if chat else GENERATED, columns, strict=True))


def _turn(tokenizer: PreTrainedTokenizerFast, prompt: str) -> list[int]:
    """The tokens of a user's turn, and of the opening of the answer."""
    text: Any = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], add_generation_prompt=True, tokenize=False
    )
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def _words(text: str) -> list[str]:
    """A text as words of letters and digits."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    return re.findall(r"[^\W_]+", plain)
