"""RoBERTa (Liu et al. 2019): BERT with positions that start after that of padding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kis_jax.models import EncoderConfig
from kis_jax.models.families.bert import bert_family, read_bert


def read_config(config: Mapping[str, Any]) -> EncoderConfig:
    """The configuration of a RoBERTa from the attributes of its `config.json`."""
    padding = config.get("pad_token_id", 1)
    if not isinstance(padding, int) or isinstance(padding, bool) or padding < 0:
        raise ValueError(
            f"config.json: pad_token_id: expected 0 or more, which positions are counted from, "
            f"found {padding!r}"
        )
    return read_bert("roberta", config, position_offset=padding + 1)


FAMILY = bert_family(
    "roberta",
    read_config,
    heads=("lm_head.*", "qa_outputs.*"),
    architecture="RobertaForMultipleChoice",
)
