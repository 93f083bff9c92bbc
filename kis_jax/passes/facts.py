"""Keys of facts, from the facts themselves."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from transformers import PreTrainedTokenizerFast

from kis_jax.data.batches import token_budget as budget_of
from kis_jax.data.facts import Fact
from kis_jax.data.prompts import Position, tokenize_facts
from kis_jax.models import Model
from kis_jax.passes import keys


def fact_keys(
    model: Model,
    tokenizer: PreTrainedTokenizerFast,
    facts: Sequence[Fact],
    *,
    position: Position = "subject_last",
    token_budget: int | None = None,
) -> np.ndarray:
    """The MLP keys of facts in all layers: what P, edits and forecasts are computed from.

    A key is taken from the fact's prompt with its subject filled in, and nothing before it.

    Args:
      model: whose keys are taken; on a mesh, its devices share the facts.
      tokenizer: of the model.
      facts: such as those of `read_facts`.
      position: whose token's key it is: `"subject_last"`, `"subject_first"` or `"last"`.
      token_budget: the most tokens run at once; chosen from memory if None.

    Returns:
      `(layers, n, d)`, NumPy float32, in the order of the facts.

    Raises:
      ValueError: if a prompt is longer than the context, a fact has no subject where one is needed,
        or a key is not finite.

    Example:
      >>> import kis_jax as kis
      >>> model, tokenizer = kis.load("factlm")
      >>> fact_keys(model, tokenizer, kis.read_facts("factlm", 3)).shape
      (6, 3, 512)
    """
    length = model.config.context_length
    prompts = tokenize_facts(facts, tokenizer, context_length=length, position=position)
    budget = budget_of(model.config) if token_budget is None else token_budget
    return keys.fact_keys(model, prompts, token_budget=budget)
