"""Ministral 3 (Mistral AI 2025): Llama with YaRN, and queries that grow with their position."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from kis_jax.models import DecoderConfig
from kis_jax.models.families.attributes import OrNone, check_type, read_attributes
from kis_jax.models.families.gated import DEFAULTS, NORMS_BEFORE, gated_family, read_gated, windows

_DEFAULTS = {
    **DEFAULTS,
    "num_key_value_heads": OrNone(int, 8),
    "head_dim": OrNone(int, 128),
    "rms_norm_eps": 1e-5,
    "sliding_window": OrNone(int),
}
_GROWTH, _ORIGINAL = "llama_4_scaling_beta", "original_max_position_embeddings"


def read_config(config: Mapping[str, Any]) -> DecoderConfig:
    """The configuration of a Ministral 3 from the attributes of its `config.json`."""
    attributes = read_attributes(config, _DEFAULTS)
    layers = attributes["num_hidden_layers"]
    positions: dict[str, Any] = attributes["rope_scaling"] or attributes["rope_parameters"] or {}
    for name, kind in ((_GROWTH, float), (_ORIGINAL, int)):
        check_type(name, positions.get(name), kind)
    rest = {name: value for name, value in positions.items() if name != _GROWTH}
    read = read_gated("ministral3", {**attributes, "rope_scaling": None, "rope_parameters": rest})
    assert read.rotary is not None
    return dataclasses.replace(
        read,
        rotary=dataclasses.replace(
            read.rotary, growth=(float(positions[_GROWTH]), positions[_ORIGINAL])
        ),
        windows=windows(None, attributes["sliding_window"], [True] * layers),
    )


FAMILY = gated_family("ministral3", read_config, norms=NORMS_BEFORE)
