"""Prompts with what should follow them, as token sequences: where a target starts."""

from __future__ import annotations

import dataclasses
import unicodedata
from collections.abc import Sequence

from transformers import PreTrainedTokenizerFast

from kis_jax.data.names import is_unspaced


@dataclasses.dataclass(frozen=True)
class Continuation:
    """A prompt and a target after it, in tokens.

    Attributes:
      tokens: ids of both, with the special tokens that the tokenizer puts before a text; those
        that it puts after one are left out.
      start: place of the target's first token, at least 1: the target is `tokens[start:]`.
    """

    tokens: list[int]
    start: int


def tokenize_continuations(
    prompts: Sequence[str],
    targets: Sequence[str],
    tokenizer: PreTrainedTokenizerFast,
    *,
    context_length: int,
) -> list[Continuation]:
    """Tokenizes each prompt together with its target, as one text.

    A target tokenized alone may come out otherwise than it does after a prompt: with a BOS, or
    without its leading blank. Here the joined text is tokenized, and the target's first token
    found by the character offsets of the fast tokenizer.

    Args:
      prompts: what stands before the targets, with nothing left to fill in.
      targets: one for each prompt; see `join`.
      tokenizer: of the model.
      context_length: the most tokens of prompt and target together.

    Raises:
      ValueError: if there are not as many targets as prompts; if a target comes to no token or
        to none that the tokenizer knows; if no token stands before it, from which it could be
        predicted; or if both together are longer than the context.

    Examples:
      >>> from kis_jax import load
      >>> _, tokenizer = load("factlm")
      >>> (found,) = tokenize_continuations(
      ...     ["The mother tongue of Vera Holm is"], ["Orvish"], tokenizer, context_length=96)
      >>> tokenizer.decode(found.tokens[found.start:])
      ' Orvish'
    """
    if len(prompts) != len(targets):
        raise ValueError(
            f"targets: expected one for each of {len(prompts)} prompts, found {len(targets)}"
        )
    if not prompts:
        return []
    joined = [join(prompt, target) for prompt, target in zip(prompts, targets, strict=True)]
    encoded = tokenizer(
        [text for text, _ in joined], return_offsets_mapping=True, return_special_tokens_mask=True
    )
    found = []
    for row, (text, boundary) in enumerate(joined):
        special = encoded["special_tokens_mask"][row]
        end = _end(special)
        tokens = encoded["input_ids"][row][:end]
        start = target_start(text, boundary, encoded["offset_mapping"][row][:end], special[:end])
        _check(tokens, start, prompts[row], targets[row], tokenizer, context_length)
        found.append(Continuation(tokens, start))
    return found


def join(prompt: str, target: str) -> tuple[str, int]:
    """A prompt and a target as one text, and the place of the character where the prompt ends.

    As the language of the prompt writes it: one blank stands between the two, whether or not either
    of them brings one along; none where the last letter or digit of the prompt is of a script that
    puts none between words, as Chinese, Japanese and Thai do, nor after an opening bracket or quote
    of a kind of its own. A prompt that ends in a line break or a tab keeps that in its stead. The
    tokenizer then sees both as one text, and where it puts a blank into a token, there it is.

    Examples:
      >>> join("The capital of Keld is", "Oru"), join("The capital of Keld is ", " Oru")
      (('The capital of Keld is Oru', 22), ('The capital of Keld is Oru', 22))
      >>> join("日本的首都是", " 东京")
      ('日本的首都是东京', 6)
    """
    before, after = prompt.rstrip(" "), target.strip()
    return before + (" " if _takes_blank(before) else "") + after, len(before)


def _takes_blank(before: str) -> bool:
    """Whether a blank stands between a prompt and what follows."""
    if not before or before[-1].isspace() or unicodedata.category(before[-1]) in ("Ps", "Pi"):
        return False
    return not is_unspaced(next((c for c in reversed(before) if c.isalnum()), before[-1]))


def target_start(
    text: str, boundary: int, offsets: Sequence[tuple[int, int]], special: Sequence[int]
) -> int:
    """Place of the first token of what follows a prompt.

    It is the first that reaches beyond the prompt. A token of the blank alone, which some
    tokenizers put between the two, belongs to the target: the model predicts it, after a prompt
    that does not hold it.

    Args:
      text: prompt and target joined; see `join`.
      boundary: where the prompt ends in it.
      offsets: of each token, the characters that it covers.
      special: of each token, whether it is one that the tokenizer adds.

    Returns:
      The place, or the number of tokens if there is no such one.
    """
    # From the end backwards, as a token of a blank may cover no character at all.
    start = len(offsets)
    while start and not special[start - 1]:
        first, last = offsets[start - 1]
        if last <= boundary and (text[first:last].strip() or first < boundary):
            break
        start -= 1
    visible = any(text[max(first, boundary) : last].strip() for first, last in offsets[start:])
    return start if visible else len(offsets)


def _end(special: Sequence[int]) -> int:
    """How many tokens are left without the special ones after the text."""
    end = len(special)
    while end and special[end - 1]:
        end -= 1
    return end


def _check(
    tokens: list[int],
    start: int,
    prompt: str,
    target: str,
    tokenizer: PreTrainedTokenizerFast,
    context_length: int,
) -> None:
    after = f"after {prompt!r}"
    if start == len(tokens):
        raise ValueError(
            f"target {target!r} {after}: expected at least one token, found none; check its "
            "characters"
        )
    if tokenizer.unk_token_id is not None and tokenizer.unk_token_id in tokens[start:]:
        raise ValueError(
            f"target {target!r} {after}: expected characters that the tokenizer knows, found some "
            f"that it reads as {tokenizer.unk_token}; name another target"
        )
    if start == 0:
        raise ValueError(
            f"target {target!r} {after}: expected a token before it, from which it is predicted, "
            "found none; add a prompt"
        )
    if len(tokens) > context_length:
        raise ValueError(
            f"target {target!r} {after}: expected at most {context_length} tokens with its prompt, "
            f"the model's context, found {len(tokens)}; shorten the prompt or leave the fact out"
        )
