"""Attributes of a `config.json` that no program computes with: told from those that matter."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from transformers import AutoConfig

from kis_jax.models import ModelConfig
from kis_jax.models.families import Family
from kis_jax.models.families.attributes import UnknownAttributes

# What transformers reads of any model, though no class of configurations declares it.
_READ_OF_ANY = frozenset(
    """
    add_cross_attention compression_config cross_attention_hidden_size is_causal is_decoder
    is_encoder_decoder pruned_heads quantization_config
    """.split()
)


def read_known(
    family: Family, attributes: Mapping[str, Any]
) -> tuple[ModelConfig, tuple[str, ...]]:
    """The configuration that attributes describe, and the names of those that change nothing.

    Of the attributes that the family's reader does not know, those pass that begin with `_`, and
    those that transformers' own class of this family's configurations does not know either: nothing
    else that it holds depends on them. Second names that this class gives to an attribute, as
    `max_position_embeddings` in a GPT-2, are read as what they name.

    Args:
      family: of the model.
      attributes: the content of its `config.json`.

    Raises:
      ValueError: naming what is known, set, and not computed with; or two names of one attribute
        with different values.

    Examples:
      >>> from kis_jax.models.families import FAMILIES
      >>> config, ignored = read_known(FAMILIES["gpt2"], {"n_layer": 3, "wandb_run": "x7"})
      >>> config.num_layers, ignored
      (3, ('wandb_run',))
    """
    attributes = _under_first_names(family.name, attributes)
    try:
        return family.read_config(attributes), ()
    except UnknownAttributes as error:
        ignored = {name for name in error.names if _changes_nothing(family.name, name, attributes)}
    rest = {name: value for name, value in attributes.items() if name not in ignored}
    return family.read_config(rest), tuple(sorted(ignored))


def _changes_nothing(model_type: str, name: str, attributes: Mapping[str, Any]) -> bool:
    if name.startswith("_"):
        return True
    plain = _own(model_type)
    if plain is None or name in plain or name in _READ_OF_ANY:
        return False
    try:
        held = AutoConfig.for_model(model_type, **{name: attributes[name]}).to_dict()
    except Exception:  # a class that looks at it; transformers raises many kinds
        return False
    held.pop(name, None)
    return held == plain


@functools.cache
def _own(model_type: str) -> dict[str, Any] | None:
    """What transformers' class of these configurations holds; None if it has none."""
    try:
        return AutoConfig.for_model(model_type).to_dict()
    except ValueError:
        return None


def _under_first_names(model_type: str, attributes: Mapping[str, Any]) -> dict[str, Any]:
    try:
        second_names = type(AutoConfig.for_model(model_type)).attribute_map
    except ValueError:
        return dict(attributes)
    found = dict(attributes)
    for second, first in second_names.items():
        if second not in found or second == first:
            continue
        value = found.pop(second)
        if value is not None and found.setdefault(first, value) != value:
            raise ValueError(
                f"config.json: {first}, {second}: expected one value, as they are two names of one "
                f"attribute, found {found[first]!r} and {value!r}; remove the wrong one from a "
                "copy of the file"
            )
    return found
