"""What families of gated decoders with rotary positions have in common, from Llama on."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from kis_jax.models import Decoder, DecoderConfig
from kis_jax.models.families.attributes import SIZES, OneOf, OrNone, read_sizes
from kis_jax.models.families.family import Family, Weight, linear, norm
from kis_jax.models.families.rotation import (
    ROTARY_DEFAULTS,
    ROTARY_KINDS,
    context_of,
    read_rotary,
)
from kis_jax.models.mlp import ACTIVATIONS

DEFAULTS: dict[str, Any] = {
    **SIZES,
    "num_key_value_heads": OrNone(int),
    "head_dim": OrNone(int),
    "hidden_act": OneOf("silu", ACTIVATIONS),
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    **ROTARY_DEFAULTS,
}


def read_gated(
    family: str,
    attributes: Mapping[str, Any],
    *,
    activation: str = "hidden_act",
    rotary_kinds: Collection[str] = ROTARY_KINDS,
) -> DecoderConfig:
    """The configuration of a gated decoder with norms before attention and MLP, and no biases.

    Args:
      family: its name.
      attributes: a value for each name in `DEFAULTS`.
      activation: name of the attribute that names the activation.
      rotary_kinds: the scalings of positions that the family has.
    """
    sizes = read_sizes(attributes)
    rotary = read_rotary(attributes, head_dim=sizes["head_dim"], kinds=rotary_kinds)
    return DecoderConfig(
        family=family,
        **sizes,
        context_length=context_of(rotary, attributes["max_position_embeddings"]),
        rotary=rotary,
        activation=attributes[activation],
        gated=True,
        norm="rms",
        norm_epsilon=attributes["rms_norm_eps"],
        qkv_bias=False,
        output_bias=False,
        mlp_bias=False,
        tied_head=attributes["tie_word_embeddings"],
    )


def windows(
    layer_types: list[str] | None, window: int | None, default: list[bool]
) -> tuple[int | None, ...]:
    """Each layer's window, from the type that `layer_types` gives it.

    Args:
      layer_types: `"sliding_attention"` or `"full_attention"` for each layer; None for the
        family's rule.
      window: tokens that a sliding layer reaches back; None if none slides.
      default: the family's rule: for each layer, whether it slides.
    """
    slides = default
    if layer_types is not None:
        known = {"sliding_attention": True, "full_attention": False}
        if len(layer_types) != len(default) or any(kind not in list(known) for kind in layer_types):
            raise ValueError(
                f"config.json: layer_types: expected {len(default)} of {', '.join(known)}, found "
                f"{layer_types}"
            )
        slides = [known[kind] for kind in layer_types]
    found = tuple(window if sliding else None for sliding in slides)
    return found if any(found) else ()


LAYER = "model.layers.{layer}."
NORMS_BEFORE = {"attention_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"}
NORMS_AFTER = {
    "attention_post_norm": "post_attention_layernorm",
    "mlp_post_norm": "post_feedforward_layernorm",
}
NORMS_AROUND = {
    "attention_norm": "input_layernorm",
    "attention_post_norm": "post_attention_layernorm",
    "mlp_norm": "pre_feedforward_layernorm",
    "mlp_post_norm": "post_feedforward_layernorm",
}
QUERY_KEY_NORMS = {
    "attention.query_norm": "self_attn.q_norm",
    "attention.key_norm": "self_attn.k_norm",
}
PROJECTIONS = (
    *linear("blocks.attention.query", LAYER + "self_attn.q_proj"),
    *linear("blocks.attention.key", LAYER + "self_attn.k_proj"),
    *linear("blocks.attention.value", LAYER + "self_attn.v_proj"),
    *linear("blocks.attention.output", LAYER + "self_attn.o_proj"),
    *linear("blocks.mlp.gate", LAYER + "mlp.gate_proj"),
    *linear("blocks.mlp.input", LAYER + "mlp.up_proj"),
    *linear("blocks.mlp.output", LAYER + "mlp.down_proj"),
)


def gated_family(
    name: str,
    read_config: Callable[[Mapping[str, Any]], DecoderConfig],
    *,
    norms: Mapping[str, str],
    projections: tuple[Weight, ...] = PROJECTIONS,
) -> Family:
    """A family whose tensors are named as Llama's.

    Args:
      name: its `model_type`.
      read_config: its reader.
      norms: for each norm of a layer in this library, its name in the checkpoint.
      projections: rows for the matrices of a layer, and for their biases where a model has them.
    """
    return Family(
        name=name,
        model=Decoder,
        read_config=read_config,
        weights=(
            Weight("embedding.embedding", "model.embed_tokens.weight"),
            *projections,
            *(
                row
                for target, source in norms.items()
                for row in norm("blocks." + target, LAYER + source)
            ),
            *norm("final_norm", "model.norm"),
            *linear("head", "lm_head"),
        ),
        prefix="model.",
        ignored=(LAYER + "self_attn.rotary_emb.inv_freq",),
        tied_head="lm_head.weight",
    )
