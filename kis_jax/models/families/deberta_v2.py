"""DeBERTa v2 and v3 (He et al. 2021, 2023): an encoder whose attention knows distances."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kis_jax.models import Encoder, EncoderConfig
from kis_jax.models.config import Convolution
from kis_jax.models.families.attributes import SIZES, OneOf, OrZero, read_attributes, read_sizes
from kis_jax.models.families.bert_rows import block_weights, embedding_weights
from kis_jax.models.families.distances import DISTANCES, distance_weights, read_distances
from kis_jax.models.families.family import ChoiceHead, Family, Transposed, Weight, linear, norm
from kis_jax.models.mlp import ACTIVATIONS

_DEFAULTS = {
    **SIZES,
    "hidden_act": OneOf("gelu", ACTIVATIONS),
    "layer_norm_eps": 1e-7,
    "type_vocab_size": OrZero(0),
    "position_biased_input": True,
    "conv_kernel_size": OrZero(0),
    "conv_act": OneOf("tanh", ACTIVATIONS),
    "pooler_hidden_act": OneOf("gelu", ACTIVATIONS),
}
_FIXED = {"is_causal": False, "conv_groups": 1}
# A size of heads that is not the rest of the model's shows in the shapes of its tensors.
_IGNORED = frozenset(
    """
    attention_head_size cls_dropout legacy pooler_dropout pooler_hidden_size tie_word_embeddings
    """.split()
)


def read_config(config: Mapping[str, Any]) -> EncoderConfig:
    """The configuration of a DeBERTa from the attributes of its `config.json`."""
    attributes = read_attributes(config, _DEFAULTS, ignored=_IGNORED | DISTANCES, fixed=_FIXED)
    sizes = read_sizes(attributes)
    relative, summands = read_distances(config, attributes["max_position_embeddings"])
    size = attributes["conv_kernel_size"]
    return EncoderConfig(
        family="deberta-v2",
        **{**sizes, "attention_scale": (sizes["head_dim"] * summands) ** -0.5},
        context_length=attributes["max_position_embeddings"],
        activation=attributes["hidden_act"],
        norm_epsilon=attributes["layer_norm_eps"],
        token_types=attributes["type_vocab_size"],
        learned_positions=attributes["position_biased_input"],
        relative=relative,
        convolution=Convolution(size, attributes["conv_act"]) if size else None,
        choice_activation=attributes["pooler_hidden_act"],
    )


_SELF = "deberta.encoder.layer.{layer}.attention.self."

FAMILY = Family(
    name="deberta-v2",
    model=Encoder,
    read_config=read_config,
    weights=(
        *embedding_weights("deberta"),
        *distance_weights("deberta.encoder", _SELF),
        Weight("mixing.kernel", "deberta.encoder.conv.conv.weight", Transposed()),
        Weight("mixing.bias", "deberta.encoder.conv.conv.bias"),
        *norm("mixing.norm", "deberta.encoder.conv.LayerNorm"),
        *linear("blocks.attention.query", _SELF + "query_proj"),
        *linear("blocks.attention.key", _SELF + "key_proj"),
        *linear("blocks.attention.value", _SELF + "value_proj"),
        *block_weights("deberta.encoder.layer.{layer}."),
    ),
    prefix="deberta.",
    ignored=(
        *("deberta.embeddings.position_ids", "deberta.embeddings.position_embeddings.weight"),
        *("deberta.encoder.LayerNorm.*", "pooler.*", "classifier.*", "cls.*", "qa_outputs.*"),
        *("lm_predictions.*", "mask_predictions.*"),
    ),
    choices=ChoiceHead("DebertaV2ForMultipleChoice", pooler="pooler.dense"),
)
