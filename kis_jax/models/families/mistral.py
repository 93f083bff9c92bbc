"""Mistral (Jiang et al. 2023): Llama with shared heads and a window in every layer."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from kis_jax.models import DecoderConfig
from kis_jax.models.families.attributes import OrNone, read_attributes
from kis_jax.models.families.gated import DEFAULTS, NORMS_BEFORE, gated_family, read_gated, windows

_DEFAULTS = {
    **DEFAULTS,
    "num_key_value_heads": OrNone(int, 8),
    "sliding_window": OrNone(int, 4096),
}


def read_config(config: Mapping[str, Any]) -> DecoderConfig:
    """The configuration of a Mistral from the attributes of its `config.json`."""
    attributes = read_attributes(config, _DEFAULTS)
    layers = attributes["num_hidden_layers"]
    return dataclasses.replace(
        read_gated("mistral", attributes),
        windows=windows(None, attributes["sliding_window"], [True] * layers),
    )


FAMILY = gated_family("mistral", read_config, norms=NORMS_BEFORE)
