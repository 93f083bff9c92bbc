"""Multiple-choice models from and to directories of torch's `*ForMultipleChoice`."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from kis_jax.checkpoints.companions import COMPANIONS
from kis_jax.checkpoints.files import find
from kis_jax.checkpoints.loading import load_model
from kis_jax.checkpoints.mapped import StoredTensor
from kis_jax.checkpoints.opening import open_checkpoint, read_config
from kis_jax.checkpoints.saving import parameters_of, write_model
from kis_jax.models import Encoder, MultipleChoice
from kis_jax.models.families import FAMILIES, Family
from kis_jax.models.families.family import ChoiceHead, Layout, Weight


def load_multiple_choice(
    directory: Path, *, dtype: DTypeLike = jnp.float32, seed: int = 0
) -> tuple[MultipleChoice, tuple[str, ...]]:
    """Loads an encoder with a head over choices.

    Args:
      directory: in HuggingFace layout, of a `*ForMultipleChoice`, or of any encoder whose family
        has such a head; heads of other kinds are left alone.
      dtype: of the parameters and the computation: float32 or bfloat16.
      seed: of those parameters of the head that the directory does not have.

    Returns:
      The model; and the tensors of its head that were made at random, as the directory has none of
      their name and shape: none of a model that was trained, the classifier's of one to be.

    Raises:
      ValueError: as of `load`; or if the model is no encoder, or its family has no such head.
    """
    family, head = choice_head(directory)
    encoder = cast(Encoder, load_model(directory, dtype=dtype))  # of a family with such a head
    model = MultipleChoice(encoder, rngs=nnx.Rngs(seed))
    tensors, fresh = open_checkpoint(directory).tensors, []
    for row in head.weights:
        layer, name = row.target.split(".")
        parameter = getattr(getattr(model, layer), name)
        found = _stored(tensors, row, family, parameter[...].shape)
        if found is None:
            fresh.append(row.source)
        else:
            parameter[...] = jnp.asarray(found, parameter[...].dtype)
    return model, tuple(fresh)


def save_multiple_choice(
    model: MultipleChoice, directory: Path, config: Mapping[str, Any], *, companions: Path | None
) -> None:
    """Writes a model that `load_multiple_choice`, and torch's `*ForMultipleChoice`, read back.

    Args:
      model: to be written, in the dtype of its parameters.
      directory: made if it does not exist.
      config: the attributes of the encoder's `config.json`.
      companions: a directory whose tokenizer and license are copied; None for none.
    """
    family = FAMILIES[model.config.family].bound(model.config)
    head = _choices_of(family)
    rows = (dataclasses.replace(row, target=f"encoder.{row.target}") for row in family.weights)
    whole = dataclasses.replace(family, weights=(*rows, *head.weights))
    attributes = {"model_type": family.name, **config, "architectures": [head.architecture]}
    write_model(directory, whole, parameters_of(model), attributes)
    for name in sorted(COMPANIONS - {"config.json", "generation_config.json"}):
        if companions is not None and (path := find(companions, name)) is not None:
            shutil.copyfile(path, directory / name)


def choice_head(directory: Path) -> tuple[Family, ChoiceHead]:
    """The family of a directory's model, and what it calls the head over choices.

    Raises:
      ValueError: if the model is no encoder, or its family has no such head.
    """
    family, _ = read_config(directory)
    return family, _choices_of(family, directory)


def _choices_of(family: Family, directory: Path | None = None) -> ChoiceHead:
    if family.choices is None:
        known = ", ".join(name for name, each in FAMILIES.items() if each.choices is not None)
        raise ValueError(
            f"{directory or 'model'}: expected an encoder with a head over choices ({known}), "
            f"found {family.name}; a decoder is scored by the likelihood of each choice, without "
            "training"
        )
    return family.choices


def _stored(
    tensors: Mapping[str, StoredTensor], row: Weight, family: Family, shape: tuple[int, ...]
) -> np.ndarray | None:
    """A parameter of the head as the directory has it; None if it has none of its shape."""
    layout = cast(Layout, row.layout)
    for name in (row.source, row.source.removeprefix(family.prefix)):
        if name in tensors and tensors[name].shape == layout.shape(shape):
            return np.array(layout.view(tensors[name].array()))
    return None
