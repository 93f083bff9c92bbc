"""Facts as token sequences, and the token whose key stands for the fact."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal, get_args

from transformers import PreTrainedTokenizerFast

from kis_jax.data.facts import Fact

Position = Literal["subject_last", "subject_first", "last"]
POSITIONS: tuple[Position, ...] = get_args(Position)


@dataclasses.dataclass(frozen=True)
class Prompt:
    """A fact's prompt in tokens.

    Attributes:
      tokens: ids, with the special tokens that the tokenizer adds by default.
      index: place of the token whose key is taken.
    """

    tokens: list[int]
    index: int


def tokenize_facts(
    facts: Sequence[Fact],
    tokenizer: PreTrainedTokenizerFast,
    *,
    context_length: int,
    position: Position = "subject_last",
) -> list[Prompt]:
    """Tokenizes the facts' prompts, nothing before them, and finds the subject's token.

    The token is found by the character offsets of the fast tokenizer, never by its kind: the
    last (or first) token that covers a character of the subject, or the last token of the prompt.

    Args:
      facts: to be tokenized.
      tokenizer: of the model.
      context_length: the most tokens of a prompt.
      position: which token: `"subject_last"`, `"subject_first"` or `"last"`.

    Raises:
      ValueError: if a prompt is longer than the context, or no token covers its subject.
    """
    if position not in POSITIONS:
        raise ValueError(f"position: expected one of {', '.join(POSITIONS)}, found {position!r}")
    encoded = tokenizer([fact.text for fact in facts], return_offsets_mapping=True)
    prompts = []
    for fact, tokens, offsets in zip(
        facts, encoded["input_ids"], encoded["offset_mapping"], strict=True
    ):
        if len(tokens) > context_length:
            raise ValueError(
                f"fact {fact.case_id}: expected a prompt of at most {context_length} tokens, the "
                f"model's context, found {len(tokens)}; shorten it or leave the fact out"
            )
        prompts.append(Prompt(tokens, _index(fact, offsets, position)))
    return prompts


def _index(fact: Fact, offsets: Sequence[tuple[int, int]], position: Position) -> int:
    start, end = fact.subject_span
    text = fact.text
    # A token's span may take in the blank before it, which does not make it part of the subject
    # that ends there; special tokens have empty spans.
    inside = [
        place
        for place, (first, last) in enumerate(offsets)
        if text[max(first, start) : min(last, end)].strip()
    ]
    if not inside:
        raise ValueError(
            f"fact {fact.case_id}: expected a subject of at least one token, found that "
            f"{fact.subject!r} tokenizes to nothing; check its characters"
        )
    if position == "last":
        spanned = [place for place, (first, last) in enumerate(offsets) if last > first]
        return spanned[-1]
    return inside[-1] if position == "subject_last" else inside[0]
