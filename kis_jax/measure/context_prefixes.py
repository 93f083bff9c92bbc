"""Beginnings that stand before a prompt, so that a value holds whatever a text begins with."""

from __future__ import annotations

from transformers import PreTrainedTokenizerFast

from kis_jax.measure.edit_settings import Convention
from kis_jax.models import Model


def context_prefixes(
    model: Model, tokenizer: PreTrainedTokenizerFast, *, convention: Convention, seed: int = 0
) -> tuple[str, ...]:
    """For now the empty prefix alone."""
    return ("",)
