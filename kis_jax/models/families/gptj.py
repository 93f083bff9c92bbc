"""GPT-J (Wang & Komatsuzaki 2021): attention and MLP side by side behind one norm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kis_jax.models import Decoder, DecoderConfig
from kis_jax.models.families.attributes import OneOf, OrNone, check_multiple, read_attributes
from kis_jax.models.families.family import Family, Weight, linear, norm
from kis_jax.models.families.rotation import check_turned
from kis_jax.models.mlp import ACTIVATIONS
from kis_jax.models.rotary import Rotary

_DEFAULTS = {
    "vocab_size": 50400,
    "n_positions": 2048,
    "n_embd": 4096,
    "n_layer": 28,
    "n_head": 16,
    "n_inner": OrNone(int),
    "rotary_dim": 64,
    "activation_function": OneOf("gelu_new", ACTIVATIONS),
    "layer_norm_epsilon": 1e-5,
}
_FIXED = {"rotary": True, "scale_attn_weights": True, "tie_word_embeddings": False}


def read_config(config: Mapping[str, Any]) -> DecoderConfig:
    """The configuration of a GPT-J from the attributes of its `config.json`."""
    attributes = read_attributes(config, _DEFAULTS, fixed=_FIXED)
    width, heads = attributes["n_embd"], attributes["n_head"]
    head_dim = check_multiple("n_embd", width, "n_head", heads)
    turned = check_turned("rotary_dim", attributes["rotary_dim"], head_dim)
    return DecoderConfig(
        family="gptj",
        vocab_size=attributes["vocab_size"],
        context_length=attributes["n_positions"],
        width=width,
        num_layers=attributes["n_layer"],
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=head_dim,
        attention_scale=head_dim**-0.5,
        rotary=Rotary(dim=turned, base=10000.0, interleaved=True),
        mlp_width=attributes["n_inner"] or 4 * width,
        activation=attributes["activation_function"],
        norm_epsilon=attributes["layer_norm_epsilon"],
        qkv_bias=False,
        output_bias=False,
        parallel=True,
        shared_norm=True,
        tied_head=False,
        head_bias=True,
    )


_LAYER = "transformer.h.{layer}."

FAMILY = Family(
    name="gptj",
    model=Decoder,
    read_config=read_config,
    weights=(
        Weight("embedding.embedding", "transformer.wte.weight"),
        *norm("blocks.attention_norm", _LAYER + "ln_1"),
        *linear("blocks.attention.query", _LAYER + "attn.q_proj"),
        *linear("blocks.attention.key", _LAYER + "attn.k_proj"),
        *linear("blocks.attention.value", _LAYER + "attn.v_proj"),
        *linear("blocks.attention.output", _LAYER + "attn.out_proj"),
        *linear("blocks.mlp.input", _LAYER + "mlp.fc_in"),
        *linear("blocks.mlp.output", _LAYER + "mlp.fc_out"),
        *norm("final_norm", "transformer.ln_f"),
        *linear("head", "lm_head"),
    ),
    prefix="transformer.",
    ignored=(_LAYER + "attn.bias", _LAYER + "attn.masked_bias"),
)
