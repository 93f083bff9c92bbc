"""DistilBERT (Sanh et al. 2019): BERT with half the layers and no token types."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kis_jax.models import Encoder, EncoderConfig
from kis_jax.models.families.attributes import OneOf, check_multiple, read_attributes
from kis_jax.models.families.family import ChoiceHead, Family, Weight, linear, norm
from kis_jax.models.mlp import ACTIVATIONS

_DEFAULTS = {
    "vocab_size": 30522,
    "dim": 768,
    "n_layers": 6,
    "n_heads": 12,
    "hidden_dim": 3072,
    "activation": OneOf("gelu", ACTIVATIONS),
    "max_position_embeddings": 512,
}

# How the table of positions, which is stored, was made; and what training and heads do.
_IGNORED = frozenset(
    """
    dropout qa_dropout seq_classif_dropout sinusoidal_pos_embds tie_weights_ tie_word_embeddings
    """.split()
)


def read_config(config: Mapping[str, Any]) -> EncoderConfig:
    """The configuration of a DistilBERT from the attributes of its `config.json`."""
    attributes = read_attributes(config, _DEFAULTS, ignored=_IGNORED, fixed={"is_causal": False})
    width, heads = attributes["dim"], attributes["n_heads"]
    head_dim = check_multiple("dim", width, "n_heads", heads)
    return EncoderConfig(
        family="distilbert",
        vocab_size=attributes["vocab_size"],
        context_length=attributes["max_position_embeddings"],
        width=width,
        num_layers=attributes["n_layers"],
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=head_dim,
        attention_scale=head_dim**-0.5,
        mlp_width=attributes["hidden_dim"],
        activation=attributes["activation"],
        norm_epsilon=1e-12,
        choice_activation="relu",
    )


_LAYER = "distilbert.transformer.layer.{layer}."

FAMILY = Family(
    name="distilbert",
    model=Encoder,
    read_config=read_config,
    weights=(
        Weight("embedding.embedding", "distilbert.embeddings.word_embeddings.weight"),
        Weight("positions.embedding", "distilbert.embeddings.position_embeddings.weight"),
        *norm("embedding_norm", "distilbert.embeddings.LayerNorm"),
        *linear("blocks.attention.query", _LAYER + "attention.q_lin"),
        *linear("blocks.attention.key", _LAYER + "attention.k_lin"),
        *linear("blocks.attention.value", _LAYER + "attention.v_lin"),
        *linear("blocks.attention.output", _LAYER + "attention.out_lin"),
        *norm("blocks.attention_norm", _LAYER + "sa_layer_norm"),
        *linear("blocks.mlp.input", _LAYER + "ffn.lin1"),
        *linear("blocks.mlp.output", _LAYER + "ffn.lin2"),
        *norm("blocks.mlp_norm", _LAYER + "output_layer_norm"),
    ),
    prefix="distilbert.",
    ignored=("vocab_*", "pre_classifier.*", "classifier.*", "qa_outputs.*"),
    choices=ChoiceHead("DistilBertForMultipleChoice", pooler="pre_classifier"),
)
