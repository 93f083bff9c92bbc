"""Llama 1, 2, 3, 3.1 and 3.2 (Touvron et al. 2023): RMS norms, rotary positions, gated MLPs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from kis_jax.models import DecoderConfig
from kis_jax.models.families.attributes import AllOf, read_attributes
from kis_jax.models.families.gated import DEFAULTS, NORMS_BEFORE, gated_family, read_gated

_DEFAULTS = {
    **DEFAULTS,
    "attention_bias": False,
    "mlp_bias": False,
    "layer_types": AllOf("full_attention"),
}

# pretraining_tp splits products into parts with the same sum.
_IGNORED = frozenset({"pretraining_tp"})


def read_config(config: Mapping[str, Any]) -> DecoderConfig:
    """The configuration of a Llama from the attributes of its `config.json`."""
    attributes = read_attributes(config, _DEFAULTS, ignored=_IGNORED)
    return dataclasses.replace(
        read_gated("llama", attributes),
        qkv_bias=attributes["attention_bias"],
        output_bias=attributes["attention_bias"],
        mlp_bias=attributes["mlp_bias"],
    )


FAMILY = gated_family("llama", read_config, norms=NORMS_BEFORE)
