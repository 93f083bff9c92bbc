"""Loading: a HuggingFace directory or hub name to a model and its tokenizer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from transformers import PreTrainedTokenizerFast

from kis_jax.checkpoints.hub import locate
from kis_jax.checkpoints.table import Entry, match
from kis_jax.checkpoints.tensors import StoredTensor, open_tensors, read_json
from kis_jax.checkpoints.tokenizers import load_tokenizer
from kis_jax.models import Model, ModelConfig
from kis_jax.models.families import FAMILIES, Family


def load(
    name_or_path: str | Path, *, dtype: DTypeLike = jnp.float32
) -> tuple[Model, PreTrainedTokenizerFast | None]:
    """Loads a model and its tokenizer.

    Names and shapes are checked against the family's table before a tensor is read; then
    tensors are read one by one, straight into the stacked parameters.

    Args:
      name_or_path: a local directory in HuggingFace layout, a name on the hub, or "factlm", the
        embedded model.
      dtype: of the parameters and the computation: float32 or bfloat16.

    Returns:
      The model, and its tokenizer: None if the directory has no tokenizer files.

    Raises:
      ValueError: naming what is missing, unknown, corrupt or not supported, and the remedy.

    Example:
      >>> model, tokenizer = load("factlm")
      >>> model.config.family
      'gpt2'
    """
    directory = locate(name_or_path)
    return load_model(directory, dtype=dtype), load_tokenizer(directory)


def load_model(directory: Path, *, dtype: DTypeLike = jnp.float32) -> Model:
    """The model of a local directory; see `load`."""
    if jnp.dtype(dtype) not in (jnp.float32, jnp.bfloat16):
        raise ValueError(f"dtype: expected float32 or bfloat16, found {jnp.dtype(dtype).name}")
    family, config = read_config(directory)
    graph, state = nnx.split(
        nnx.eval_shape(lambda: family.model(config, dtype=dtype, rngs=nnx.Rngs(0)))
    )
    parameters = dict(nnx.to_flat_state(state))
    shapes = {path_name(path): leaf.shape for path, leaf in parameters.items()}
    tensors = open_tensors(directory)
    stored = {name: tensor.shape for name, tensor in tensors.items()}
    entries: dict[str, list[Entry]] = {target: [] for target in shapes}
    for entry in match(family, shapes, stored, directory):
        entries[entry.target].append(entry)
    filled = []
    for path, leaf in parameters.items():
        values = _assemble(entries[path_name(path)], tensors, leaf.shape, leaf.dtype)
        filled.append((path, leaf.replace(jnp.asarray(values))))
    return nnx.merge(graph, nnx.from_flat_state(filled))


def read_config(directory: Path) -> tuple[Family, ModelConfig]:
    """The family of a checkpoint, bound to its configuration in this library's words."""
    path = directory / "config.json"
    attributes = read_json(path)
    model_type = attributes.get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise ValueError(
            f"{path}: model_type: expected one of {', '.join(FAMILIES)}, found {model_type!r}; "
            "this family of models is not supported"
        )
    family = FAMILIES[model_type]
    try:
        config = family.read_config(attributes)
    except ValueError as error:
        raise ValueError(f"{directory}: {error}") from None
    return family.bound(config), config


def path_name(path: Iterable[object]) -> str:
    """The dotted path of a parameter, as in a family's table."""
    return ".".join(map(str, path))


def _assemble(
    entries: list[Entry], tensors: Mapping[str, StoredTensor], shape: tuple[int, ...], dtype
) -> np.ndarray:
    values = np.empty(shape, dtype)
    for entry in entries:
        place = ... if entry.layer is None else entry.layer
        tensor = tensors[entry.source].read()
        if not jnp.issubdtype(tensor.dtype, jnp.floating):
            raise ValueError(
                f"{entry.source}: expected float32, float16 or bfloat16, found {tensor.dtype}; "
                "quantized checkpoints are not supported, use the original"
            )
        values[place] = entry.layout.view(tensor).reshape(values[place].shape)
    return values
