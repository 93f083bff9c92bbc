"""SmolLM3 (Hugging Face 2025): Llama with no positions in every fourth layer."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from kis_jax.models import DecoderConfig
from kis_jax.models.families.attributes import OrNone, read_attributes
from kis_jax.models.families.gated import DEFAULTS, NORMS_BEFORE, gated_family, read_gated, windows

_DEFAULTS = {
    **{name: default for name, default in DEFAULTS.items() if name != "head_dim"},
    "num_key_value_heads": OrNone(int, 4),
    "rope_theta": 2e6,
    "tie_word_embeddings": True,
    "attention_bias": False,
    "mlp_bias": False,
    "use_sliding_window": False,
    "sliding_window": OrNone(int),
    "layer_types": OrNone(list),
    "no_rope_layers": OrNone(list),
    "no_rope_layer_interval": 4,
}

_IGNORED = frozenset({"max_window_layers", "pretraining_tp"})


def read_config(config: Mapping[str, Any]) -> DecoderConfig:
    """The configuration of a SmolLM3 from the attributes of its `config.json`."""
    attributes = read_attributes(config, _DEFAULTS, ignored=_IGNORED)
    turns = _turns(attributes)
    window = attributes["sliding_window"] if attributes["use_sliding_window"] else None
    return dataclasses.replace(
        read_gated("smollm3", attributes),
        qkv_bias=attributes["attention_bias"],
        output_bias=attributes["attention_bias"],
        mlp_bias=attributes["mlp_bias"],
        windows=windows(attributes["layer_types"], window, [not turned for turned in turns]),
        unrotated=tuple(layer for layer, turned in enumerate(turns) if not turned),
    )


def _turns(attributes: Mapping[str, Any]) -> list[bool]:
    """For each layer, whether it has positions: what `no_rope_layers`, of this name, says."""
    layers, listed = attributes["num_hidden_layers"], attributes["no_rope_layers"]
    if listed is None:
        every = attributes["no_rope_layer_interval"]
        return [(layer + 1) % every != 0 for layer in range(layers)]
    if len(listed) < layers or any(entry not in (0, 1) for entry in listed):
        raise ValueError(
            f"config.json: no_rope_layers: expected 1 (with positions) or 0 (without) for each of "
            f"{layers} layers, found {listed}"
        )
    return [bool(entry) for entry in listed[:layers]]


FAMILY = gated_family("smollm3", read_config, norms=NORMS_BEFORE)
