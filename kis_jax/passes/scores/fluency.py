"""Fluency: whether what a model writes about the subjects of its edits repeats itself."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from transformers import PreTrainedTokenizerFast

from kis_jax.data.facts import Fact
from kis_jax.models import Model
from kis_jax.passes.scores.generation import generate

# By length of the n-gram; the mean is then taken over the two.
_WEIGHTS: Mapping[int, float] = {2: 2 / 3, 3: 4 / 3}
_WORD = re.compile(r"\w+|[^\w\s]")


def fluency(
    model: Model,
    tokenizer: PreTrainedTokenizerFast,
    facts: Sequence[Fact],
    *,
    num_tokens: int = 100,
    seed: int = 0,
) -> np.ndarray:
    """Entropy of the n-grams of what a model writes about each fact's subject.

    A model that edits have broken writes the same words over and over: its entropy falls.

    Args:
      model: a decoder.
      tokenizer: of the model.
      facts: with their generation prompts.
      num_tokens: to be written after each prompt.
      seed: of the draws from the five likeliest tokens.

    Returns:
      `(n,)` float64, the mean of `ngram_entropy` over the texts of each fact, prompts included;
      NaN for a fact with no generation prompts.

    Raises:
      ValueError: if the model is an encoder, or a text does not fit its context.

    Reference: Zhang et al. 2018 (arXiv 1809.05972); weights as in Meng et al. 2022
    (arXiv 2202.05262), whose texts have 100 tokens.
    """
    prompts = [prompt for fact in facts for prompt in fact.generation_prompts]
    written = generate(model, tokenizer, prompts, num_tokens=num_tokens, seed=seed)
    entropies = iter([ngram_entropy(a + b) for a, b in zip(prompts, written, strict=True)])
    means = [[next(entropies) for _ in fact.generation_prompts] for fact in facts]
    return np.array([np.mean(of_fact) if of_fact else np.nan for of_fact in means], np.float64)


def ngram_entropy(text: str) -> float:
    r"""Weighted mean of the entropies, in bits, of a text's pairs and triples of words.

    $\frac12 (\frac23 H_2 + \frac43 H_3)$, words being runs of letters and digits, or single other
    characters. Of a text of fewer words, an entropy is 0.

    Examples:
      >>> ngram_entropy("again and again and again"), round(ngram_entropy("one two three"), 3)
      (0.9455..., 0.333)
    """
    words = _WORD.findall(text)
    parts = [weight * _entropy(_ngrams(words, n)) for n, weight in _WEIGHTS.items()]
    return float(np.mean(parts))


def _ngrams(words: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(words[start:] for start in range(n)), strict=False))


def _entropy(counts: Counter[tuple[str, ...]]) -> float:
    shares = np.array(list(counts.values()), np.float64) / max(1, counts.total())
    return float(-np.sum(shares * np.log2(shares)))
