"""OLMoE (Muennighoff et al. 2024): a mixture of experts with norms on queries and keys."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from kis_jax.models import DecoderConfig
from kis_jax.models.families.attributes import read_attributes
from kis_jax.models.families.gated import DEFAULTS, NORMS_BEFORE, QUERY_KEY_NORMS, read_gated
from kis_jax.models.families.mixtures import ROUTER_IGNORED, mixture_family, read_experts

_DEFAULTS = {
    **{name: default for name, default in DEFAULTS.items() if name != "head_dim"},
    "rms_norm_eps": 1e-5,
    "attention_bias": False,
    "num_experts": 64,
    "num_experts_per_tok": 8,
    "norm_topk_prob": False,
}


def read_config(config: Mapping[str, Any]) -> DecoderConfig:
    """The configuration of an OLMoE from the attributes of its `config.json`."""
    attributes = read_attributes(config, _DEFAULTS, ignored=ROUTER_IGNORED)
    return dataclasses.replace(
        read_gated("olmoe", attributes),
        qkv_bias=attributes["attention_bias"],
        output_bias=attributes["attention_bias"],
        query_key_norm="projection",
        experts=read_experts(
            attributes["num_experts"],
            attributes["num_experts_per_tok"],
            renormalized=attributes["norm_topk_prob"],
        ),
    )


FAMILY = mixture_family("olmoe", read_config, norms=NORMS_BEFORE | QUERY_KEY_NORMS)
