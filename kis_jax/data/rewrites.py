"""Facts as the texts on which a new target is taught: after prefixes, in tokens, with places."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal, get_args

from transformers import PreTrainedTokenizerFast

from kis_jax.data.continuations import join, target_start
from kis_jax.data.facts import Fact
from kis_jax.data.prompts import check_subjects, subject_places

EditPosition = Literal["subject_last", "last"]
EDIT_POSITIONS: tuple[EditPosition, ...] = get_args(EditPosition)
# What a subject is besides the fact; ROME's prompt for it.
ESSENCE = "{} is a"
_NO_SUBJECT = "It"


@dataclasses.dataclass(frozen=True)
class Placed:
    """A text in tokens.

    Attributes:
      tokens: ids, with the special tokens that the tokenizer puts before a text; those that it
        puts after one are left out.
      index: place of the token whose key stands for the fact.
      start: place of the target's first token, beyond `index`; the number of tokens if there is
        no target.
    """

    tokens: list[int]
    index: int
    start: int


@dataclasses.dataclass(frozen=True)
class Rewrite:
    """A fact's prompt and new target after each prefix.

    Attributes:
      texts: "prefix. prompt target" for each prefix; None where that is longer than the context.
        The first is of the empty prefix.
      essence: "{subject} is a", which an edit should leave as it is; "It is a" of a fact without
        a subject.
    """

    texts: tuple[Placed | None, ...]
    essence: Placed


def tokenize_rewrites(
    facts: Sequence[Fact],
    prefixes: Sequence[str],
    tokenizer: PreTrainedTokenizerFast,
    *,
    context_length: int,
    position: EditPosition = "subject_last",
) -> list[Rewrite]:
    """Tokenizes facts with their new targets after each of some prefixes, as one text each.

    The subject's last token and the target's first are found by the character offsets of the fast
    tokenizer on the whole text: a target tokenized alone may come out otherwise.

    Args:
      facts: with a `target_new` each.
      prefixes: texts to stand before the prompts, joined by ". "; the first is "".
      tokenizer: of the model.
      context_length: the most tokens of a text.
      position: whose key stands for the fact: the subject's last token, or, `"last"`, the last
        token before the target, for models that gather a fact only there.

    Raises:
      ValueError: naming the fact, if its subject or its target comes to no token or to one that
        the tokenizer does not know, or if its prompt and target without prefix are longer than
        the context; or if the first prefix is not empty, or one holds `{}`; or if a fact has no
        subject, and the position is not "last".

    Examples:
      >>> from kis_jax import load
      >>> _, tokenizer = load("factlm")
      >>> fact = Fact(0, "The mother tongue of {} is", "Vera Holm", target_new="Orvish")
      >>> (rewrite,) = tokenize_rewrites(
      ...     [fact], ["", "I was there"], tokenizer, context_length=96)
      >>> [tokenizer.decode(text.tokens[: text.start]) for text in rewrite.texts]
      ['The mother tongue of Vera Holm is', 'I was there. The mother tongue of Vera Holm is']
    """
    if not prefixes or prefixes[0]:
        raise ValueError(
            f"prefixes: expected the empty one first, found {list(prefixes[:1])}; put '' there"
        )
    if broken := [prefix for prefix in prefixes if "{}" in prefix]:
        raise ValueError(
            f"prefixes: expected none with {{}}, which marks the subject, found {broken[0]!r}"
        )
    if position != "last":
        check_subjects(facts)
    variants = [_variants(fact, prefixes) for fact in facts]
    placed = iter(_place([text for group in variants for text in group], tokenizer, position))
    rewrites = []
    for fact in facts:
        texts = [next(placed) for _ in prefixes]
        essence = next(placed)
        for what, text in (("its prompt and target", texts[0]), ("its subject", essence)):
            if len(text.tokens) > context_length:
                raise ValueError(
                    f"fact {fact.case_id}: expected {what} to take at most {context_length} "
                    f"tokens, the model's context, found {len(text.tokens)}; shorten it or leave "
                    "the fact out"
                )
        fitting = (text if len(text.tokens) <= context_length else None for text in texts)
        rewrites.append(Rewrite(tuple(fitting), essence))
    return rewrites


def with_prefix(prefix: str, text: str) -> str:
    """A text after a prefix; the text itself if that is empty."""
    return f"{prefix}. {text}" if prefix else text


def _variants(fact: Fact, prefixes: Sequence[str]) -> list[tuple[Fact, str]]:
    """A fact's prompts with the targets to put after them; that of the essence is none."""
    if not fact.target_new.strip():
        raise ValueError(
            f"fact {fact.case_id}: expected a new target of at least one token, found "
            f"{fact.target_new!r}; name the object that the edit asks for"
        )
    prompts = [with_prefix(prefix, fact.prompt) for prefix in prefixes]
    return [
        *((dataclasses.replace(fact, prompt=prompt), fact.target_new) for prompt in prompts),
        (dataclasses.replace(fact, prompt=ESSENCE, subject=fact.subject or _NO_SUBJECT), ""),
    ]


def _place(
    variants: Sequence[tuple[Fact, str]],
    tokenizer: PreTrainedTokenizerFast,
    position: EditPosition,
) -> list[Placed]:
    if not variants:
        return []
    joined = [join(fact.text, target) if target else (fact.text, None) for fact, target in variants]
    encoded = tokenizer(
        [text for text, _ in joined], return_offsets_mapping=True, return_special_tokens_mask=True
    )
    found = []
    for row, ((fact, target), (text, boundary)) in enumerate(zip(variants, joined, strict=True)):
        special = encoded["special_tokens_mask"][row]
        places = [place for place, added in enumerate(special) if not added]
        end = places[-1] + 1 if places else 0
        offsets = encoded["offset_mapping"][row][:end]
        tokens = encoded["input_ids"][row][:end]
        inside = subject_places(fact, offsets, places) if fact.subject else []
        start = end if boundary is None else target_start(text, boundary, offsets, special[:end])
        if target and start == end:
            raise ValueError(
                f"fact {fact.case_id}: expected a new target of at least one token, found that "
                f"{target!r} tokenizes to nothing; check its characters"
            )
        if inside and inside[-1] >= start:
            raise ValueError(
                f"fact {fact.case_id}: expected the subject {fact.subject!r} to end before its "
                f"target {target!r}, found one token that holds both; put a word between them"
            )
        _check_known(fact, [tokens[place] for place in inside], "subject", tokenizer)
        _check_known(fact, tokens[start:], "target", tokenizer)
        found.append(Placed(tokens, inside[-1] if position == "subject_last" else start - 1, start))
    return found


def _check_known(
    fact: Fact, tokens: Sequence[int], what: str, tokenizer: PreTrainedTokenizerFast
) -> None:
    unknown = tokenizer.unk_token_id
    if unknown is not None and unknown in tokens:
        text = fact.subject if what == "subject" else fact.target_new
        raise ValueError(
            f"fact {fact.case_id}: expected a {what} that the tokenizer knows, found {text!r}, "
            f"which it reads in part as {tokenizer.unk_token}; write it in characters of the "
            "model's vocabulary or leave the fact out"
        )
