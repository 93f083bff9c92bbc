"""Mixtral (Jiang et al. 2024): a Mistral whose MLPs are mixtures of experts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from kis_jax.models import DecoderConfig
from kis_jax.models.families.attributes import OrNone, read_attributes
from kis_jax.models.families.gated import DEFAULTS, NORMS_BEFORE, read_gated, windows
from kis_jax.models.families.mixtures import ROUTER_IGNORED, mixture_family, read_experts

_DEFAULTS = {
    **DEFAULTS,
    "num_key_value_heads": OrNone(int, 8),
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e6,
    "sliding_window": OrNone(int),
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
}


def read_config(config: Mapping[str, Any]) -> DecoderConfig:
    """The configuration of a Mixtral from the attributes of its `config.json`."""
    attributes = read_attributes(config, _DEFAULTS, ignored=ROUTER_IGNORED)
    layers = attributes["num_hidden_layers"]
    return dataclasses.replace(
        read_gated("mixtral", attributes),
        windows=windows(None, attributes["sliding_window"], [True] * layers),
        experts=read_experts(
            attributes["num_local_experts"], attributes["num_experts_per_tok"], renormalized=True
        ),
    )


FAMILY = mixture_family(
    "mixtral",
    read_config,
    norms=NORMS_BEFORE,
    router="block_sparse_moe.gate",
    expert="block_sparse_moe.experts.{expert}.",
    matrices=("w1", "w3", "w2"),
)
