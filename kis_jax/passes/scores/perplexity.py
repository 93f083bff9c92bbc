"""Perplexity: how well a model, edited or not, still predicts ordinary text."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from transformers import PreTrainedTokenizerFast

from kis_jax.data.batches import token_budget as default_budget
from kis_jax.data.continuations import Continuation
from kis_jax.data.corpora import tokenize_corpus
from kis_jax.models import Model
from kis_jax.passes.scores.scoring import score


def perplexity(
    model: Model,
    tokenizer: PreTrainedTokenizerFast,
    documents: Iterable[str],
    *,
    token_budget: int | None = None,
) -> float:
    r"""Perplexity of a model on documents.

    $\exp(-\frac1T \sum_t \log p(x_t \mid x_{<t}))$ over all tokens of all documents but the first
    of each. Each document stands for itself, cut to the model's context; what lies beyond is left
    out.

    Args:
      model: a decoder.
      tokenizer: of the model.
      documents: that C was not taken from, if an edit is to be judged by them.
      token_budget: the most tokens run at once, padding included; chosen from memory if None.

    Returns:
      At least 1; infinity beyond what a float can hold.

    Raises:
      ValueError: if no document has two tokens or more.

    Examples:
      >>> from kis_jax import load
      >>> model, tokenizer = load("factlm")
      >>> plain = perplexity(model, tokenizer, ["The bus leaves at noon."])
      >>> plain < perplexity(model, tokenizer, ["noon at leaves bus The."])
      True
    """
    texts = tokenize_corpus(documents, tokenizer, context_length=model.config.context_length)
    asked = [Continuation(tokens, 1) for tokens in texts if len(tokens) > 1]
    if not asked:
        raise ValueError(
            "documents: expected one of two tokens or more, found none; name other text"
        )
    budget = default_budget(model.config) if token_budget is None else token_budget
    scores = score(model, asked, token_budget=budget)
    mean = np.average(scores.log_probabilities, weights=scores.num_tokens)
    with np.errstate(over="ignore"):
        return float(np.exp(-mean))
