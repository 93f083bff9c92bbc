"""GPT-2 (Radford et al. 2019): learned positions, layer norms before each part, tied head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kis_jax.models.decoder import ACTIVATIONS, Decoder, DecoderConfig
from kis_jax.models.families.family import Columns, Family, Transposed, Weight, read_attributes

_DEFAULTS = {
    "vocab_size": 50257,
    "n_positions": 1024,
    "n_embd": 768,
    "n_layer": 12,
    "n_head": 12,
    "n_inner": None,
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "scale_attn_weights": True,
    "tie_word_embeddings": True,
}

# n_ctx repeats n_positions; the summary_* belong to a classifier's head; float32 attention
# logits, which reorder_and_upcast_attn asks for, are what we always compute.
_IGNORED = frozenset(
    """
    n_ctx reorder_and_upcast_attn summary_activation summary_first_dropout
    summary_proj_to_labels summary_type summary_use_proj
    """.split()
)


def read_config(config: Mapping[str, Any]) -> DecoderConfig:
    """The configuration of a GPT-2 from the attributes of its `config.json`."""
    attributes = read_attributes(config, _DEFAULTS, ignored=_IGNORED)
    width, heads = attributes["n_embd"], attributes["n_head"]
    if width % heads:
        raise ValueError(f"config.json: n_embd={width} is not a multiple of n_head={heads}")
    if attributes["activation_function"] not in ACTIVATIONS:
        raise ValueError(
            f"config.json: activation_function: expected one of {', '.join(ACTIVATIONS)}, "
            f"found {attributes['activation_function']!r}"
        )
    return DecoderConfig(
        family="gpt2",
        vocab_size=attributes["vocab_size"],
        context_length=attributes["n_positions"],
        width=width,
        num_layers=attributes["n_layer"],
        num_heads=heads,
        mlp_width=attributes["n_inner"] or 4 * width,
        activation=attributes["activation_function"],
        norm_epsilon=attributes["layer_norm_epsilon"],
        attention_scale=(width // heads) ** -0.5 if attributes["scale_attn_weights"] else 1.0,
        tied_head=attributes["tie_word_embeddings"],
    )


# GPT-2's Conv1D stores (in, out), as Flax does; query, key and value lie side by side.
_LAYER = "transformer.h.{layer}."

FAMILY = Family(
    name="gpt2",
    model=Decoder,
    read_config=read_config,
    weights=(
        Weight("embedding.embedding", "transformer.wte.weight"),
        Weight("positions.embedding", "transformer.wpe.weight"),
        Weight("blocks.attention_norm.scale", _LAYER + "ln_1.weight"),
        Weight("blocks.attention_norm.bias", _LAYER + "ln_1.bias"),
        Weight("blocks.attention.query.kernel", _LAYER + "attn.c_attn.weight", Columns(0, 3)),
        Weight("blocks.attention.query.bias", _LAYER + "attn.c_attn.bias", Columns(0, 3)),
        Weight("blocks.attention.key.kernel", _LAYER + "attn.c_attn.weight", Columns(1, 3)),
        Weight("blocks.attention.key.bias", _LAYER + "attn.c_attn.bias", Columns(1, 3)),
        Weight("blocks.attention.value.kernel", _LAYER + "attn.c_attn.weight", Columns(2, 3)),
        Weight("blocks.attention.value.bias", _LAYER + "attn.c_attn.bias", Columns(2, 3)),
        Weight("blocks.attention.output.kernel", _LAYER + "attn.c_proj.weight"),
        Weight("blocks.attention.output.bias", _LAYER + "attn.c_proj.bias"),
        Weight("blocks.mlp_norm.scale", _LAYER + "ln_2.weight"),
        Weight("blocks.mlp_norm.bias", _LAYER + "ln_2.bias"),
        Weight("blocks.mlp.input.kernel", _LAYER + "mlp.c_fc.weight"),
        Weight("blocks.mlp.input.bias", _LAYER + "mlp.c_fc.bias"),
        Weight("blocks.mlp.output.kernel", _LAYER + "mlp.c_proj.weight"),
        Weight("blocks.mlp.output.bias", _LAYER + "mlp.c_proj.bias"),
        Weight("final_norm.scale", "transformer.ln_f.weight"),
        Weight("final_norm.bias", "transformer.ln_f.bias"),
        Weight("head.kernel", "lm_head.weight", Transposed()),
    ),
    prefix="transformer.",
    ignored=("lm_head.weight", _LAYER + "attn.bias", _LAYER + "attn.masked_bias"),
)
