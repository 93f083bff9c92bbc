"""Qwen 3 (Yang et al. 2025): Llama with norms on the queries and keys of each head."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from kis_jax.models import DecoderConfig
from kis_jax.models.families.attributes import OrNone, read_attributes
from kis_jax.models.families.gated import (
    DEFAULTS,
    NORMS_BEFORE,
    QUERY_KEY_NORMS,
    gated_family,
    read_gated,
)
from kis_jax.models.families.qwen2 import WINDOW_DEFAULTS, late_windows

_DEFAULTS = {
    **DEFAULTS,
    **WINDOW_DEFAULTS,
    "num_key_value_heads": OrNone(int, 32),
    "head_dim": 128,
    "attention_bias": False,
}


def read_config(config: Mapping[str, Any]) -> DecoderConfig:
    """The configuration of a Qwen 3 from the attributes of its `config.json`."""
    attributes = read_attributes(config, _DEFAULTS)
    return dataclasses.replace(
        read_gated("qwen3", attributes),
        qkv_bias=attributes["attention_bias"],
        output_bias=attributes["attention_bias"],
        query_key_norm="head",
        windows=late_windows(attributes),
    )


FAMILY = gated_family("qwen3", read_config, norms=NORMS_BEFORE | QUERY_KEY_NORMS)
