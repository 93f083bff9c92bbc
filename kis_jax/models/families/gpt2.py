"""GPT-2 (Radford et al. 2019): learned positions, layer norms before each part, tied head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kis_jax.models import Decoder, DecoderConfig
from kis_jax.models.families.attributes import OneOf, OrNone, check_multiple, read_attributes
from kis_jax.models.families.family import AsIs, Columns, Family, Weight, linear, norm
from kis_jax.models.mlp import ACTIVATIONS

_DEFAULTS = {
    "vocab_size": 50257,
    "n_positions": 1024,
    "n_embd": 768,
    "n_layer": 12,
    "n_head": 12,
    "n_inner": OrNone(int),
    "activation_function": OneOf("gelu_new", ACTIVATIONS),
    "layer_norm_epsilon": 1e-5,
    "scale_attn_weights": True,
    "tie_word_embeddings": True,
}

# n_ctx repeats n_positions; float32 attention logits, which reorder_and_upcast_attn asks for, are
# what we always compute.
_IGNORED = frozenset({"n_ctx", "reorder_and_upcast_attn"})


def read_config(config: Mapping[str, Any]) -> DecoderConfig:
    """The configuration of a GPT-2 from the attributes of its `config.json`."""
    attributes = read_attributes(config, _DEFAULTS, ignored=_IGNORED)
    width, heads = attributes["n_embd"], attributes["n_head"]
    head_dim = check_multiple("n_embd", width, "n_head", heads)
    return DecoderConfig(
        family="gpt2",
        vocab_size=attributes["vocab_size"],
        context_length=attributes["n_positions"],
        width=width,
        num_layers=attributes["n_layer"],
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=head_dim,
        mlp_width=attributes["n_inner"] or 4 * width,
        activation=attributes["activation_function"],
        norm_epsilon=attributes["layer_norm_epsilon"],
        attention_scale=head_dim**-0.5 if attributes["scale_attn_weights"] else 1.0,
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
        *norm("blocks.attention_norm", _LAYER + "ln_1"),
        *linear("blocks.attention.query", _LAYER + "attn.c_attn", Columns(0, 3), Columns(0, 3)),
        *linear("blocks.attention.key", _LAYER + "attn.c_attn", Columns(1, 3), Columns(1, 3)),
        *linear("blocks.attention.value", _LAYER + "attn.c_attn", Columns(2, 3), Columns(2, 3)),
        *linear("blocks.attention.output", _LAYER + "attn.c_proj", AsIs()),
        *norm("blocks.mlp_norm", _LAYER + "ln_2"),
        *linear("blocks.mlp.input", _LAYER + "mlp.c_fc", AsIs()),
        *linear("blocks.mlp.output", _LAYER + "mlp.c_proj", AsIs()),
        *norm("final_norm", "transformer.ln_f"),
        *linear("head", "lm_head"),
    ),
    prefix="transformer.",
    ignored=(_LAYER + "attn.bias", _LAYER + "attn.masked_bias"),
    tied_head="lm_head.weight",
)
