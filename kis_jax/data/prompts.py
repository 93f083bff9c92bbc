"""Facts as token sequences, and the token whose key stands for the fact."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from transformers import PreTrainedTokenizerFast

from kis_jax.data.facts import Fact

Position = Literal["subject_last", "subject_first", "last"]
POSITIONS: tuple[Position, ...] = get_args(Position)
_BLANKS = (
    " \u2581\u0120"  # as SentencePiece and byte-level BPE write it: a lower block, a G with dot
)


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
      ValueError: if a prompt is longer than the context, or no token covers its subject; or if a
        fact has no subject, and the position is not "last".
    """
    if position not in POSITIONS:
        raise ValueError(f"position: expected one of {', '.join(POSITIONS)}, found {position!r}")
    if position != "last":
        check_subjects(facts)
    encoded = tokenizer(
        [fact.text for fact in facts], return_offsets_mapping=True, return_special_tokens_mask=True
    )
    prompts = []
    for row, fact in enumerate(facts):
        tokens = encoded["input_ids"][row]
        if len(tokens) > context_length:
            raise ValueError(
                f"fact {fact.case_id}: expected a prompt of at most {context_length} tokens, the "
                f"model's context, found {len(tokens)}; shorten it or leave the fact out"
            )
        places = [i for i, special in enumerate(encoded["special_tokens_mask"][row]) if not special]
        if fact.subject or position != "last":
            inside = subject_places(fact, encoded["offset_mapping"][row], places)
        else:
            inside = places
        if position == "last":
            index = places[-1]
        elif position == "subject_last":
            index = inside[-1]
        else:
            index = _first(inside, tokenizer.convert_ids_to_tokens(tokens))
        prompts.append(Prompt(tokens, index))
    return prompts


def other_tokens(
    prompts: Sequence[Prompt], tokenizer: PreTrainedTokenizerFast, *, seed: int = 0
) -> list[Prompt]:
    """The same texts, each with another of its tokens: what facts are held against.

    The token is drawn among those of the prompt that are neither special nor the fact's own. One
    whose text up to it was drawn before is passed over: in a decoder it would have the very same
    key, as the first words of prompts made from one template do. A prompt with none left is left
    out.

    Args:
      prompts: of facts.
      tokenizer: that made them.
      seed: of the draw.

    Returns:
      At most as many prompts.
    """
    rng, special = np.random.default_rng(seed), set(tokenizer.all_special_ids)
    taken: set[tuple[int, ...]] = set()
    others = []
    for prompt in prompts:
        places = [
            place
            for place, token in enumerate(prompt.tokens)
            if place != prompt.index
            and token not in special
            and tuple(prompt.tokens[: place + 1]) not in taken
        ]
        if not places:
            continue
        chosen = int(rng.choice(places))
        taken.add(tuple(prompt.tokens[: chosen + 1]))
        others.append(Prompt(prompt.tokens, chosen))
    return others


def check_subjects(facts: Sequence[Fact]) -> None:
    """Raises ValueError counting the facts without a subject, if there are any."""
    if without := [fact for fact in facts if not fact.subject]:
        raise ValueError(
            f"facts: expected a subject of each of {len(facts)}, found none of {len(without)}, the "
            f"first of them fact {without[0].case_id}; pass --position last, which takes the last "
            "token of the prompt for the subject's, or give the file subjects"
        )


def subject_places(
    fact: Fact, offsets: Sequence[tuple[int, int]], places: Sequence[int]
) -> list[int]:
    """The places of the tokens that cover a character of the subject."""
    start, end = fact.subject_span
    text = fact.text
    # A token's span may take in the blank before it, which does not make it part of the subject
    # that ends there.
    inside = [
        place
        for place in places
        if text[max(offsets[place][0], start) : min(offsets[place][1], end)].strip()
    ]
    if not inside:
        raise ValueError(
            f"fact {fact.case_id}: expected a subject of at least one token, found that "
            f"{fact.subject!r} tokenizes to nothing; check its characters"
        )
    return inside


def _first(inside: Sequence[int], tokens: Sequence[str]) -> int:
    """The first of the subject's tokens that is more than a blank.

    A tokenizer that puts a blank before the text gives it the span of the first character.
    """
    return next((place for place in inside if tokens[place].strip(_BLANKS)), inside[0])
