"""Saving: a model to a directory in HuggingFace layout."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from kis_jax.checkpoints.files import write_atomically
from kis_jax.checkpoints.opening import path_name
from kis_jax.checkpoints.table import Entry, expand
from kis_jax.checkpoints.tensors import SINGLE
from kis_jax.checkpoints.writing import Unwritten, write_safetensors
from kis_jax.models import Model
from kis_jax.models.families import FAMILIES, Family


def save(model: Model, directory: str | Path, config: Mapping[str, Any]) -> None:
    """Writes `model.safetensors` and `config.json`, which torch transformers loads as well.

    For a model that was made here. One that came from a checkpoint is better written by `export`,
    which keeps that checkpoint's dtype, its bits and its other files.

    Args:
      model: to be written, in the dtype of its parameters.
      directory: made if it does not exist.
      config: the attributes of the `config.json`; they must describe this model.

    Raises:
      ValueError: if `config` describes another model.

    Examples:
      >>> import tempfile
      >>> from kis_jax import load
      >>> config = dict(vocab_size=50, n_positions=16, n_embd=8, n_layer=3, n_head=2)
      >>> from kis_jax.models import Decoder
      >>> from kis_jax.models.families import gpt2
      >>> model = Decoder(gpt2.read_config(config), rngs=nnx.Rngs(0))
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     save(model, folder, config)
      ...     load(folder)[0].config == model.config
      True
    """
    family = FAMILIES[model.config.family].bound(model.config)
    if (described := family.read_config(config)) != model.config:
        raise ValueError(
            f"config: expected the attributes of this model, {model.config}, found {described}"
        )
    write_model(directory, family, parameters_of(model), {"model_type": family.name, **config})


def write_model(
    directory: str | Path,
    family: Family,
    parameters: Mapping[str, jax.Array],
    attributes: Mapping[str, Any],
) -> None:
    """Writes parameters by a table, and the attributes as `config.json`, each whole or not at all.

    Args:
      directory: made if it does not exist.
      family: whose table names the tensors, bound to the model's configuration.
      parameters: by their paths; each stands in one row of the table.
      attributes: of `config.json`.
    """
    entries: dict[str, list[Entry]] = {}
    for entry in expand(family, {name: array.shape for name, array in parameters.items()}):
        entries.setdefault(entry.source, []).append(entry)
    tensors = {
        name: Unwritten(
            parts[0].shape,
            parameters[parts[0].target].dtype,
            functools.partial(_assemble, parts, parameters),
        )
        for name, parts in entries.items()
    }
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    with write_atomically(directory / "config.json") as path:
        path.write_text(json.dumps(dict(attributes), indent=2) + "\n", encoding="utf-8")
    with write_atomically(directory / SINGLE) as path:
        write_safetensors(path, tensors, metadata={"format": "pt"})


def parameters_of(model: nnx.Module) -> dict[str, jax.Array]:
    """The parameters of a model by their paths."""
    return {
        path_name(path): leaf[...] for path, leaf in nnx.to_flat_state(nnx.state(model, nnx.Param))
    }


def part_of(parameters: Mapping[str, jax.Array], entry: Entry) -> np.ndarray:
    """What of a parameter lies in one tensor, on the host."""
    return np.asarray(parameters[entry.target][entry.place])


def _assemble(entries: list[Entry], parameters: Mapping[str, jax.Array]) -> np.ndarray:
    tensor = np.empty(entries[0].shape, parameters[entries[0].target].dtype)
    for entry in entries:
        view = entry.layout.view(tensor)
        view[...] = part_of(parameters, entry).reshape(view.shape)
    return tensor
