"""Qwen 2 and 2.5 (Yang et al. 2024): Llama with biases of queries, keys and values."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from kis_jax.models import DecoderConfig
from kis_jax.models.families.attributes import OrNone, OrZero, read_attributes
from kis_jax.models.families.gated import DEFAULTS, NORMS_BEFORE, gated_family, read_gated, windows

WINDOW_DEFAULTS: dict[str, Any] = {
    "use_sliding_window": False,
    "sliding_window": OrNone(int, 4096),
    "max_window_layers": OrZero(28),
    "layer_types": OrNone(list),
}

_DEFAULTS = {**DEFAULTS, **WINDOW_DEFAULTS, "num_key_value_heads": OrNone(int, 32)}


def read_config(config: Mapping[str, Any]) -> DecoderConfig:
    """The configuration of a Qwen 2 from the attributes of its `config.json`."""
    attributes = read_attributes(config, _DEFAULTS)
    return dataclasses.replace(
        read_gated("qwen2", attributes), qkv_bias=True, windows=late_windows(attributes)
    )


def late_windows(attributes: Mapping[str, Any]) -> tuple[int | None, ...]:
    """Windows in the layers from `max_window_layers` on, where they are in use at all."""
    late = [
        layer >= attributes["max_window_layers"] for layer in range(attributes["num_hidden_layers"])
    ]
    window = attributes["sliding_window"] if attributes["use_sliding_window"] else None
    return windows(attributes["layer_types"], window, late)


FAMILY = gated_family("qwen2", read_config, norms=NORMS_BEFORE)
