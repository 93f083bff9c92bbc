"""Granite 3 and 4, the dense ones (IBM 2024): Llama with a factor on each of its parts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from kis_jax.models import DecoderConfig
from kis_jax.models.families.attributes import AllOf, read_attributes
from kis_jax.models.families.gated import DEFAULTS, NORMS_BEFORE, gated_family, read_gated

_DEFAULTS = {
    **{name: default for name, default in DEFAULTS.items() if name != "head_dim"},
    "attention_bias": False,
    "mlp_bias": False,
    "layer_types": AllOf("full_attention"),
    "embedding_multiplier": 1.0,
    "residual_multiplier": 1.0,
    "attention_multiplier": 1.0,
    "logits_scaling": 1.0,
}


def read_config(config: Mapping[str, Any]) -> DecoderConfig:
    """The configuration of a Granite from the attributes of its `config.json`."""
    attributes = read_attributes(config, _DEFAULTS)
    return dataclasses.replace(
        read_gated("granite", attributes),
        qkv_bias=attributes["attention_bias"],
        output_bias=attributes["attention_bias"],
        mlp_bias=attributes["mlp_bias"],
        embedding_scale=float(attributes["embedding_multiplier"]),
        residual_scale=float(attributes["residual_multiplier"]),
        attention_scale=float(attributes["attention_multiplier"]),
        logit_scale=1 / attributes["logits_scaling"],
    )


FAMILY = gated_family("granite", read_config, norms=NORMS_BEFORE)
