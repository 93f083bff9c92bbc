"""Gemma 2 (Gemma Team 2024): bounded logits, norms around each part, windows in turn."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from kis_jax.models import DecoderConfig
from kis_jax.models.families.attributes import OneOf, OrNone, read_attributes
from kis_jax.models.families.gated import DEFAULTS, NORMS_AROUND, gated_family, read_gated, windows
from kis_jax.models.mlp import ACTIVATIONS

GEMMA_DEFAULTS: dict[str, Any] = {
    **{name: default for name, default in DEFAULTS.items() if name != "hidden_act"},
    "num_key_value_heads": 4,
    "head_dim": 256,
    "hidden_activation": OneOf("gelu_pytorch_tanh", ACTIVATIONS),
    "tie_word_embeddings": True,
    "attention_bias": False,
    "query_pre_attn_scalar": 256.0,
    "sliding_window": 4096,
    "layer_types": OrNone(list),
    "final_logit_softcapping": OrNone(float),
    "attn_logit_softcapping": OrNone(float),
}

_DEFAULTS = {
    **GEMMA_DEFAULTS,
    "final_logit_softcapping": OrNone(float, 30.0),
    "attn_logit_softcapping": OrNone(float, 50.0),
}

# These repeat hidden_activation and sliding_window.
_IGNORED = frozenset({"hidden_act", "sliding_window_size"})


def read_config(config: Mapping[str, Any]) -> DecoderConfig:
    """The configuration of a Gemma 2 from the attributes of its `config.json`."""
    attributes = read_attributes(config, _DEFAULTS, ignored=_IGNORED)
    slides = [layer % 2 == 0 for layer in range(attributes["num_hidden_layers"])]
    return dataclasses.replace(
        read_gemma("gemma2", attributes),
        windows=windows(attributes["layer_types"], attributes["sliding_window"], slides),
        attention_cap=attributes["attn_logit_softcapping"],
    )


def read_gemma(family: str, attributes: Mapping[str, Any]) -> DecoderConfig:
    """What Gemma 2 and 3 have in common."""
    return dataclasses.replace(
        read_gated(family, attributes, activation="hidden_activation"),
        norm="rms_offset",
        norms_after=True,
        qkv_bias=attributes["attention_bias"],
        output_bias=attributes["attention_bias"],
        attention_scale=attributes["query_pre_attn_scalar"] ** -0.5,
        embedding_scale=attributes["hidden_size"] ** 0.5,
        logit_cap=attributes["final_logit_softcapping"],
    )


FAMILY = gated_family("gemma2", read_config, norms=NORMS_AROUND)
