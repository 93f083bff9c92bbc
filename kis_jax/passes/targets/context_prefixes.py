"""Beginnings that stand before a prompt, so that a value holds whatever a text begins with."""

from __future__ import annotations

from transformers import PreTrainedTokenizerFast

from kis_jax.models import Model
from kis_jax.passes.scores.generation import generate
from kis_jax.passes.targets.settings import Convention, TargetSettings

# Of each convention: the words that its generated prefixes begin with, and how many tokens follow.
_OPENINGS: dict[Convention, list[tuple[tuple[str, ...], int]]] = {
    "rome": [(10 * ("The",), 5), (10 * ("The",), 10)],
    "memit": [(("The", "Therefore", "Because", "I", "You"), 10)],
    "own": [(("The", "Therefore", "Because", "I", "You"), 10)],
}


def default_prefixes(
    model: Model, tokenizer: PreTrainedTokenizerFast, settings: TargetSettings
) -> tuple[str, ...]:
    """The prefixes that settings ask for: those of their convention, or the empty one alone.

    Examples:
      >>> from kis_jax import load
      >>> default_prefixes(*load("factlm"), TargetSettings(9, 0.1, 4.0, 0.0, prefixed=False))
      ('',)
    """
    if not settings.prefixed:
        return ("",)
    return context_prefixes(model, tokenizer, convention=settings.convention)


def context_prefixes(
    model: Model, tokenizer: PreTrainedTokenizerFast, *, convention: Convention, seed: int = 0
) -> tuple[str, ...]:
    """The prefixes of a convention, the empty one first, as the model itself continues words.

    ROME: 10 texts of 5 tokens after "The" and 10 of 10. MEMIT: one of 10 tokens after each of
    The, Therefore, Because, I and You; so do we. The same model and seed give the same prefixes.

    Args:
      model: a decoder with a context of more than 11 tokens.
      tokenizer: of the model.
      convention: `"own"`, `"rome"` or `"memit"`.
      seed: of the random numbers.

    Raises:
      ValueError: if there is no such convention, or the model is an encoder.

    Examples:
      >>> from kis_jax import load
      >>> model, tokenizer = load("factlm")
      >>> found = context_prefixes(model, tokenizer, convention="memit")
      >>> len(found), found[0], found[1].split()[0], found[5].split()[0]
      (6, '', 'The', 'You')
    """
    if convention not in _OPENINGS:
        raise ValueError(f"convention: expected one of {', '.join(_OPENINGS)}, found {convention}")
    prefixes = [""]
    for place, (words, length) in enumerate(_OPENINGS[convention]):
        # Each length has seeds of its own: one text is not the beginning of another.
        own = seed * len(_OPENINGS[convention]) + place
        texts = generate(model, tokenizer, words, num_tokens=length, seed=own)
        prefixes += [_line(word + text) for word, text in zip(words, texts, strict=True)]
    return tuple(prefixes)


def _line(text: str) -> str:
    """A text in one line, without its full stop, and the braces that mark a subject."""
    return " ".join(text.replace("{", " ").replace("}", " ").split()).rstrip(".")
