"""Tokenizers: the fast one of a checkpoint directory, by transformers."""

from __future__ import annotations

from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerFast

from kis_jax.checkpoints.files import find

_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
_COMPANIONS = (
    "added_tokens.json",
    "chat_template.jinja",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer_config.json",
)


def load_tokenizer(directory: Path) -> PreTrainedTokenizerFast | None:
    """The tokenizer of a directory; None if it holds no file of one.

    Raises:
      ValueError: if its files cannot be read, or give no fast tokenizer: the subject's token is
        found by character offsets, which only a fast one knows.
    """
    # Transformers follows links wherever they lead: all are looked at before it opens any.
    present = {name for name in (*_FILES, *_COMPANIONS) if find(directory, name) is not None}
    if present.isdisjoint(_FILES):
        return None
    try:
        tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
    except Exception as error:  # tokenizers raises bare Exceptions, transformers many kinds
        reason = str(error).strip().splitlines()[:1]
        raise ValueError(
            f"{directory}: expected files of a tokenizer, found that transformers cannot read "
            f"them ({type(error).__name__}: {' '.join(reason)}); download them again"
        ) from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ValueError(
            f"{directory}: expected a fast tokenizer, found {type(tokenizer).__name__}; save one "
            "with AutoTokenizer.from_pretrained(..., use_fast=True).save_pretrained(...)"
        )
    return tokenizer
