"""Saving: a model to a directory in HuggingFace layout."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx
from safetensors.numpy import save_file

from kis_jax.checkpoints.files import write_atomically
from kis_jax.checkpoints.opening import path_name
from kis_jax.checkpoints.table import expand
from kis_jax.models import Model
from kis_jax.models.families import FAMILIES


def save(model: Model, directory: str | Path, config: Mapping[str, Any]) -> None:
    """Writes `model.safetensors` and `config.json`, which torch transformers loads as well.

    Args:
      model: to be written, in the dtype of its parameters.
      directory: made if it does not exist.
      config: the attributes of the `config.json`; they must describe this model.

    Raises:
      ValueError: if `config` describes another model.
    """
    family = FAMILIES[model.config.family].bound(model.config)
    if (described := family.read_config(config)) != model.config:
        raise ValueError(
            f"config: expected the attributes of this model, {model.config}, found {described}"
        )
    parameters = {
        path_name(path): np.asarray(leaf[...])
        for path, leaf in nnx.to_flat_state(nnx.state(model, nnx.Param))
    }
    tensors: dict[str, np.ndarray] = {}
    for entry in expand(family, {name: array.shape for name, array in parameters.items()}):
        values = parameters[entry.target]
        tensor = tensors.setdefault(entry.source, np.empty(entry.shape, values.dtype))
        place = entry.layout.view(tensor)
        place[...] = (values if entry.layer is None else values[entry.layer]).reshape(place.shape)
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    attributes = {"model_type": family.name, **config}
    with write_atomically(directory / "config.json") as path:
        path.write_text(json.dumps(attributes, indent=2) + "\n", encoding="utf-8")
    with write_atomically(directory / "model.safetensors") as path:
        save_file(tensors, path, metadata={"format": "pt"})
        # safetensors makes files that only their owner can read, whatever the umask says.
        shutil.copymode(directory / "config.json", path)
