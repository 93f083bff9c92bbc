"""Phi 3 (Abdin et al. 2024): Llama with fused projections, windows and LongRoPE."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from kis_jax.models import DecoderConfig, ModelConfig
from kis_jax.models.families.attributes import OrNone, read_attributes
from kis_jax.models.families.family import TransposedRows, linear
from kis_jax.models.families.gated import (
    DEFAULTS,
    LAYER,
    NORMS_BEFORE,
    gated_family,
    read_gated,
    windows,
)

_DEFAULTS = {
    **{name: default for name, default in DEFAULTS.items() if name != "head_dim"},
    "rms_norm_eps": 1e-5,
    "partial_rotary_factor": 1.0,
    "original_max_position_embeddings": 4096,
    "sliding_window": OrNone(int),
}

# No program reads these.
_IGNORED = frozenset({"attention_bias", "full_attn_mod", "interpolate_factor"})


def read_config(config: Mapping[str, Any]) -> DecoderConfig:
    """The configuration of a Phi 3 from the attributes of its `config.json`."""
    attributes = read_attributes(config, _DEFAULTS, ignored=_IGNORED)
    layers = attributes["num_hidden_layers"]
    return dataclasses.replace(
        read_gated("phi3", attributes, rotary_kinds=("default", "longrope")),
        windows=windows(None, attributes["sliding_window"], [True] * layers),
    )


def _part(index: int) -> Callable[[ModelConfig], TransposedRows]:
    """Queries (0), keys (1) or values (2) in `qkv_proj`."""

    def layout(config: ModelConfig) -> TransposedRows:
        heads = (config.num_heads, config.num_kv_heads, config.num_kv_heads)
        start, size = sum(heads[:index]), heads[index]
        return TransposedRows(*(config.head_dim * rows for rows in (start, size, sum(heads))))

    return layout


def _half(index: int) -> Callable[[ModelConfig], TransposedRows]:
    """The gate (0) or what it multiplies (1) in `gate_up_proj`."""
    return lambda config: TransposedRows(
        index * config.mlp_width, config.mlp_width, 2 * config.mlp_width
    )


FAMILY = gated_family(
    "phi3",
    read_config,
    norms=NORMS_BEFORE,
    projections=(
        *linear("blocks.attention.query", LAYER + "self_attn.qkv_proj", _part(0)),
        *linear("blocks.attention.key", LAYER + "self_attn.qkv_proj", _part(1)),
        *linear("blocks.attention.value", LAYER + "self_attn.qkv_proj", _part(2)),
        *linear("blocks.attention.output", LAYER + "self_attn.o_proj"),
        *linear("blocks.mlp.gate", LAYER + "mlp.gate_up_proj", _half(0)),
        *linear("blocks.mlp.input", LAYER + "mlp.gate_up_proj", _half(1)),
        *linear("blocks.mlp.output", LAYER + "mlp.down_proj"),
    ),
)
