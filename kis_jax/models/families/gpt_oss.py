"""GPT-OSS (OpenAI 2025): mixtures of experts with biases, attention with sinks; float weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from kis_jax.models import DecoderConfig
from kis_jax.models.families.attributes import OneOf, OrNone, read_attributes
from kis_jax.models.families.family import Weight
from kis_jax.models.families.gated import DEFAULTS, LAYER, NORMS_BEFORE, read_gated, windows
from kis_jax.models.families.mixtures import (
    ROUTER_IGNORED,
    interleaved_experts,
    mixture_family,
    read_experts,
)

_LENGTH = "original_max_position_embeddings"
_YARN = {"rope_type": "yarn", "factor": 32.0, "truncate": False, _LENGTH: 4096}
_DEFAULTS = {
    **DEFAULTS,
    "num_key_value_heads": OrNone(int, 8),
    "head_dim": OrNone(int, 64),
    "hidden_act": OneOf("silu", ("silu",)),  # of a gate that is clamped, see `mlp.GATES`
    "rms_norm_eps": 1e-5,
    "rope_theta": 150000.0,
    "rope_parameters": OrNone(dict, _YARN),
    "attention_bias": True,
    "sliding_window": OrNone(int, 128),
    "layer_types": OrNone(list),
    "num_local_experts": 128,
    "num_experts_per_tok": 4,
}
_IGNORED = ROUTER_IGNORED | {"initial_context_length", "experts_per_token"}  # said twice
_FIXED = {"swiglu_limit": 7.0, "swiglu_alpha": 1.702}


def read_config(config: Mapping[str, Any]) -> DecoderConfig:
    """The configuration of a GPT-OSS from the attributes of its `config.json`."""
    if found := config.get("quantization_config"):
        method = found.get("quant_method") if isinstance(found, Mapping) else found
        raise ValueError(
            f"config.json: quantization_config: expected weights in floating point, found {method}"
            "; load it in transformers with Mxfp4Config(dequantize=True), and save it again"
        )
    attributes = read_attributes(config, _DEFAULTS, ignored=_IGNORED, fixed=_FIXED)
    slides = [layer % 2 == 0 for layer in range(attributes["num_hidden_layers"])]
    return dataclasses.replace(
        read_gated("gpt_oss", attributes),
        activation="clamped_swiglu",
        qkv_bias=attributes["attention_bias"],
        output_bias=attributes["attention_bias"],
        mlp_bias=True,
        sinks=True,
        windows=windows(attributes["layer_types"], attributes["sliding_window"], slides),
        experts=read_experts(
            attributes["num_local_experts"],
            attributes["num_experts_per_tok"],
            renormalized=True,
            router_bias=True,
        ),
    )


FAMILY = mixture_family(
    "gpt_oss",
    read_config,
    norms=NORMS_BEFORE,
    router="mlp.router",
    rows=(
        Weight("blocks.attention.sinks", LAYER + "self_attn.sinks"),
        *interleaved_experts(),
    ),
)
