"""OLMo 2 (OLMo et al. 2024): Llama with norms after attention and MLP, and on queries and keys."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from kis_jax.models import DecoderConfig
from kis_jax.models.families.attributes import AllOf, read_attributes
from kis_jax.models.families.gated import (
    DEFAULTS,
    NORMS_AFTER,
    QUERY_KEY_NORMS,
    gated_family,
    read_gated,
)

_DEFAULTS = {
    **DEFAULTS,
    "rms_norm_eps": 1e-5,
    "attention_bias": False,
    "layer_types": AllOf("full_attention"),
}


def read_config(config: Mapping[str, Any]) -> DecoderConfig:
    """The configuration of an OLMo 2 from the attributes of its `config.json`."""
    attributes = read_attributes(config, _DEFAULTS)
    return dataclasses.replace(
        read_gated("olmo2", attributes),
        qkv_bias=attributes["attention_bias"],
        output_bias=attributes["attention_bias"],
        query_key_norm="projection",
        norms_before=False,
        norms_after=True,
    )


FAMILY = gated_family("olmo2", read_config, norms=NORMS_AFTER | QUERY_KEY_NORMS)
