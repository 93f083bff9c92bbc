"""GPT-NeoX and Pythia (Black et al. 2022, Biderman et al. 2023): queries, keys, values fused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from kis_jax.models import Decoder, DecoderConfig, ModelConfig
from kis_jax.models.families.attributes import SIZES, OneOf, read_attributes, read_sizes
from kis_jax.models.families.family import Family, TransposedHeads, Weight, linear, norm
from kis_jax.models.families.rotation import ROTARY_DEFAULTS, context_of, read_rotary
from kis_jax.models.mlp import ACTIVATIONS

_DEFAULTS = {
    **SIZES,
    "hidden_act": OneOf("gelu", ACTIVATIONS),
    "layer_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "use_parallel_residual": True,
    "attention_bias": True,
    "rotary_pct": 0.25,
    "rotary_emb_base": 10000.0,
    **ROTARY_DEFAULTS,
}


def read_config(config: Mapping[str, Any]) -> DecoderConfig:
    """The configuration of a GPT-NeoX from the attributes of its `config.json`."""
    attributes = read_attributes(config, _DEFAULTS)
    attributes["rope_theta"] = attributes["rotary_emb_base"]
    attributes["partial_rotary_factor"] = attributes["rotary_pct"]
    sizes = read_sizes(attributes)
    rotary = read_rotary(attributes, head_dim=sizes["head_dim"])
    return DecoderConfig(
        family="gpt_neox",
        **sizes,
        context_length=context_of(rotary, attributes["max_position_embeddings"]),
        rotary=rotary,
        activation=attributes["hidden_act"],
        norm_epsilon=attributes["layer_norm_eps"],
        qkv_bias=attributes["attention_bias"],
        output_bias=attributes["attention_bias"],
        parallel=attributes["use_parallel_residual"],
        tied_head=attributes["tie_word_embeddings"],
    )


def _part(index: int) -> Callable[[ModelConfig], TransposedHeads]:
    return lambda config: TransposedHeads(index, 3, config.num_heads)


_LAYER = "gpt_neox.layers.{layer}."
_BUFFERS = ("bias", "masked_bias", "rotary_emb.inv_freq")
_FUSED = _LAYER + "attention.query_key_value"

FAMILY = Family(
    name="gpt_neox",
    model=Decoder,
    read_config=read_config,
    weights=(
        Weight("embedding.embedding", "gpt_neox.embed_in.weight"),
        *norm("blocks.attention_norm", _LAYER + "input_layernorm"),
        *linear("blocks.attention.query", _FUSED, _part(0), _part(0)),
        *linear("blocks.attention.key", _FUSED, _part(1), _part(1)),
        *linear("blocks.attention.value", _FUSED, _part(2), _part(2)),
        *linear("blocks.attention.output", _LAYER + "attention.dense"),
        *norm("blocks.mlp_norm", _LAYER + "post_attention_layernorm"),
        *linear("blocks.mlp.input", _LAYER + "mlp.dense_h_to_4h"),
        *linear("blocks.mlp.output", _LAYER + "mlp.dense_4h_to_h"),
        *norm("final_norm", "gpt_neox.final_layer_norm"),
        *linear("head", "embed_out"),
    ),
    prefix="gpt_neox.",
    ignored=tuple(_LAYER + "attention." + name for name in _BUFFERS),
    tied_head="embed_out.weight",
)
