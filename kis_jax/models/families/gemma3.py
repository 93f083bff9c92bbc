"""Gemma 3, its text models (Gemma Team 2025): five layers with a window to one without."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from kis_jax.models import DecoderConfig
from kis_jax.models.families.attributes import read_attributes
from kis_jax.models.families.gated import NORMS_AROUND, QUERY_KEY_NORMS, gated_family, windows
from kis_jax.models.families.gemma2 import GEMMA_DEFAULTS, read_gemma
from kis_jax.models.families.rotation import split_rotary

_DEFAULTS = {
    **GEMMA_DEFAULTS,
    "rope_theta": 1e6,
    "rope_local_base_freq": 1e4,
    "sliding_window_pattern": 6,
}

# The first repeats sliding_window_pattern, where layer_types says the same.
_IGNORED = frozenset({"_sliding_window_pattern", "hidden_act"})


def read_config(config: Mapping[str, Any]) -> DecoderConfig:
    """The configuration of a Gemma 3 for text from the attributes of its `config.json`."""
    # Torch transformers reads the bound on attention's logits and computes without it.
    fixed = {"attn_logit_softcapping": None}
    defaults = {name: value for name, value in _DEFAULTS.items() if name not in fixed}
    attributes = read_attributes(config, defaults, ignored=_IGNORED, fixed=fixed)
    pattern = attributes["sliding_window_pattern"]
    slides = [(layer + 1) % pattern != 0 for layer in range(attributes["num_hidden_layers"])]
    far, local_rotary = split_rotary(
        attributes, head_dim=attributes["head_dim"], local_base=attributes["rope_local_base_freq"]
    )
    return dataclasses.replace(
        read_gemma("gemma3_text", far),
        query_key_norm="head",
        windows=windows(attributes["layer_types"], attributes["sliding_window"], slides),
        local_rotary=local_rotary,
    )


FAMILY = gated_family("gemma3_text", read_config, norms=NORMS_AROUND | QUERY_KEY_NORMS)
