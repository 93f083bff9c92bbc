"""OLMo 3 (OLMo et al. 2025): OLMo 2 with three layers with a window to one without."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from kis_jax.models import DecoderConfig
from kis_jax.models.families.attributes import OrNone, read_attributes, read_sizes
from kis_jax.models.families.gated import (
    DEFAULTS,
    NORMS_AFTER,
    QUERY_KEY_NORMS,
    gated_family,
    read_gated,
    windows,
)
from kis_jax.models.families.rotation import split_rotary

_BASE = 5e5

_DEFAULTS = {
    **{name: default for name, default in DEFAULTS.items() if name != "head_dim"},
    "rms_norm_eps": 1e-5,
    "rope_theta": _BASE,
    "attention_bias": False,
    "sliding_window": OrNone(int, 4096),
    "layer_types": OrNone(list),
}


def read_config(config: Mapping[str, Any]) -> DecoderConfig:
    """The configuration of an OLMo 3 from the attributes of its `config.json`."""
    attributes = read_attributes(config, _DEFAULTS)
    slides = [(layer + 1) % 4 != 0 for layer in range(attributes["num_hidden_layers"])]
    # As in transformers, rope_theta beside rope_scaling is for layers without a window alone.
    far, local_rotary = split_rotary(
        attributes, head_dim=read_sizes(attributes)["head_dim"], local_base=_BASE
    )
    found = windows(attributes["layer_types"], attributes["sliding_window"], slides)
    return dataclasses.replace(
        read_gated("olmo3", far),
        qkv_bias=attributes["attention_bias"],
        output_bias=attributes["attention_bias"],
        query_key_norm="projection",
        norms_before=False,
        norms_after=True,
        windows=found,
        local_rotary=local_rotary if found else None,
    )


FAMILY = gated_family("olmo3", read_config, norms=NORMS_AFTER | QUERY_KEY_NORMS)
