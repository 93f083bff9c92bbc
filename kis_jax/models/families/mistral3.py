"""Mistral 3, the text part of models that also see images: a Ministral 3 or a Mistral within."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from kis_jax.models import DecoderConfig
from kis_jax.models.families import ministral3, mistral
from kis_jax.models.families.attributes import Required, read_attributes

_TEXTS = {module.FAMILY.name: module.FAMILY for module in (ministral3, mistral)}
_TIED, _TEXT = "tie_word_embeddings", "language_model."

# Of the part that sees: no key of a text depends on it.
_IGNORED = frozenset(
    """
    image_token_id image_token_index multimodal_projector_bias projector_hidden_act
    spatial_merge_size vision_config vision_feature_layer
    """.split()
)


def read_config(config: Mapping[str, Any]) -> DecoderConfig:
    """The configuration of the text part from the attributes of a `config.json` of the whole."""
    text = read_attributes(
        {name: value for name, value in config.items() if name != _TIED},
        {"text_config": Required(dict)},
        ignored=_IGNORED,
    )["text_config"]
    family = text.get("model_type")
    if not isinstance(family, str) or family not in _TEXTS:
        raise ValueError(
            f"config.json: text_config: model_type: expected one of {', '.join(_TEXTS)}, found "
            f"{family!r}"
        )
    tied = {_TIED: config[_TIED]} if _TIED in config else {}
    return dataclasses.replace(_TEXTS[family].read_config({**text, **tied}), family="mistral3")


def _within(name: str) -> str:
    return _TEXT + name


FAMILY = dataclasses.replace(
    ministral3.FAMILY,
    name="mistral3",
    read_config=read_config,
    weights=tuple(
        dataclasses.replace(row, source=_within(row.source)) for row in ministral3.FAMILY.weights
    ),
    prefix=_within(ministral3.FAMILY.prefix),
    ignored=(*map(_within, ministral3.FAMILY.ignored), "vision_tower.*", "multi_modal_projector.*"),
    tied_head=_within("lm_head.weight"),
    modules=("language_model.model.", "model.language_model."),
)
