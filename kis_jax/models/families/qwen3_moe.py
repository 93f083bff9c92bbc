"""Qwen 3, its mixtures of experts (Yang et al. 2025)."""

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
    read_gated,
    windows,
)
from kis_jax.models.families.mixtures import ROUTER_IGNORED, mixture_family, read_experts

_COUNT, _OLDER_COUNT = "num_local_experts", "num_experts"

_DEFAULTS = {
    **DEFAULTS,
    "num_key_value_heads": OrNone(int, 4),
    "attention_bias": False,
    "use_sliding_window": False,
    "sliding_window": OrNone(int, 4096),
    "moe_intermediate_size": 768,
    _COUNT: 128,
    "num_experts_per_tok": 8,
    "norm_topk_prob": False,
}
# Layers of one kind are stacked: those with one MLP between those with experts are not.
_FIXED = {"decoder_sparse_step": 1}
_IGNORED = ROUTER_IGNORED | {"max_window_layers"}


def read_config(config: Mapping[str, Any]) -> DecoderConfig:
    """The configuration of a Qwen 3 mixture from the attributes of its `config.json`."""
    if _OLDER_COUNT in config:
        config = {_COUNT: config[_OLDER_COUNT], **config}
        del config[_OLDER_COUNT]
    attributes = read_attributes(config, _DEFAULTS, ignored=_IGNORED, fixed=_FIXED)
    layers = attributes["num_hidden_layers"]
    window = attributes["sliding_window"] if attributes["use_sliding_window"] else None
    return dataclasses.replace(
        read_gated("qwen3_moe", attributes),
        mlp_width=attributes["moe_intermediate_size"],
        qkv_bias=attributes["attention_bias"],
        output_bias=attributes["attention_bias"],
        query_key_norm="head",
        windows=windows(None, window, [True] * layers),
        experts=read_experts(
            attributes[_COUNT],
            attributes["num_experts_per_tok"],
            renormalized=attributes["norm_topk_prob"],
        ),
    )


FAMILY = mixture_family("qwen3_moe", read_config, norms=NORMS_BEFORE | QUERY_KEY_NORMS)
