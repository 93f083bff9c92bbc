"""Rows of the tables of encoders that name their tensors as BERT does."""

from __future__ import annotations

from kis_jax.models.families.family import Weight, linear, norm


def embedding_weights(name: str) -> tuple[Weight, ...]:
    """The rows of embeddings."""
    return (
        Weight("embedding.embedding", f"{name}.embeddings.word_embeddings.weight"),
        Weight("positions.embedding", f"{name}.embeddings.position_embeddings.weight"),
        Weight("token_types.embedding", f"{name}.embeddings.token_type_embeddings.weight"),
        *norm("embedding_norm", f"{name}.embeddings.LayerNorm"),
    )


def block_weights(layer: str) -> tuple[Weight, ...]:
    """The rows of a layer, after the projections that attention reads with."""
    return (
        *linear("blocks.attention.output", layer + "attention.output.dense"),
        *norm("blocks.attention_norm", layer + "attention.output.LayerNorm"),
        *linear("blocks.mlp.input", layer + "intermediate.dense"),
        *linear("blocks.mlp.output", layer + "output.dense"),
        *norm("blocks.mlp_norm", layer + "output.LayerNorm"),
    )
