"""BERT (Devlin et al. 2019), without its heads and pooler."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from kis_jax.models import Encoder, EncoderConfig
from kis_jax.models.families.attributes import SIZES, OneOf, read_attributes, read_sizes
from kis_jax.models.families.bert_rows import block_weights, embedding_weights
from kis_jax.models.families.family import ChoiceHead, Family, linear
from kis_jax.models.mlp import ACTIVATIONS

_DEFAULTS = {
    **SIZES,
    "hidden_act": OneOf("gelu", ACTIVATIONS),
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
}
_FIXED = {"position_embedding_type": "absolute", "is_causal": False}

_IGNORED = frozenset({"directionality", "tie_word_embeddings"})


def read_config(config: Mapping[str, Any]) -> EncoderConfig:
    """The configuration of a BERT from the attributes of its `config.json`."""
    return read_bert("bert", config)


def read_bert(family: str, config: Mapping[str, Any], *, position_offset: int = 0) -> EncoderConfig:
    """What BERT and RoBERTa have in common."""
    attributes = read_attributes(config, _DEFAULTS, ignored=_IGNORED, fixed=_FIXED)
    context = attributes["max_position_embeddings"] - position_offset
    if context < 1:
        raise ValueError(
            f"config.json: max_position_embeddings: expected more than {position_offset}, "
            f"found {attributes['max_position_embeddings']}"
        )
    return EncoderConfig(
        family=family,
        **read_sizes(attributes),
        context_length=context,
        activation=attributes["hidden_act"],
        norm_epsilon=attributes["layer_norm_eps"],
        token_types=attributes["type_vocab_size"],
        position_offset=position_offset,
    )


def bert_family(
    name: str,
    read_config: Callable[[Mapping[str, Any]], EncoderConfig],
    *,
    heads: tuple[str, ...],
    architecture: str,
) -> Family:
    """A family whose tensors are named as BERT's, under its own name; `heads` are left alone."""
    layer = name + ".encoder.layer.{layer}."
    return Family(
        name=name,
        model=Encoder,
        read_config=read_config,
        weights=(
            *embedding_weights(name),
            *linear("blocks.attention.query", layer + "attention.self.query"),
            *linear("blocks.attention.key", layer + "attention.self.key"),
            *linear("blocks.attention.value", layer + "attention.self.value"),
            *block_weights(layer),
        ),
        prefix=f"{name}.",
        ignored=(f"{name}.pooler.*", f"{name}.embeddings.position_ids", "classifier.*", *heads),
        old_endings=(("LayerNorm.weight", "LayerNorm.gamma"), ("LayerNorm.bias", "LayerNorm.beta")),
        choices=ChoiceHead(architecture, pooler=f"{name}.pooler.dense"),
    )


FAMILY = bert_family(
    "bert", read_config, heads=("cls.*", "qa_outputs.*"), architecture="BertForMultipleChoice"
)
