"""Loading: a HuggingFace directory or hub name to a model and its tokenizer."""

from __future__ import annotations

import collections
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.typing import DTypeLike
from transformers import PreTrainedTokenizerFast

from kis_jax.checkpoints.hub import locate
from kis_jax.checkpoints.opening import (
    Checkpoint,
    abstract_model,
    open_checkpoint,
    path_name,
)
from kis_jax.checkpoints.opening import read_config as read_config
from kis_jax.checkpoints.parts import Parts
from kis_jax.checkpoints.pieces import equal
from kis_jax.checkpoints.table import Entry
from kis_jax.checkpoints.tokenizers import load_tokenizer
from kis_jax.models import Model, ModelConfig
from kis_jax.models.sharding import checked_mesh, partitions


def load(
    name_or_path: str | Path, *, dtype: DTypeLike = jnp.float32, mesh: Mesh | None = None
) -> tuple[Model, PreTrainedTokenizerFast | None]:
    """Loads a model and its tokenizer.

    Names, shapes and dtypes are checked against the family's table before a tensor is read; then
    tensors are read piece by piece, straight into the stacked parameters: memory holds the model
    in its new dtype, and little more.

    Args:
      name_or_path: a local directory in HuggingFace layout, a name on the hub, or "factlm", the
        embedded model.
      dtype: of the parameters and the computation: float32 or bfloat16.
      mesh: of devices to lay the model out over, as `make_mesh` makes it; the default device if
        None. Each host reads those parts of each tensor that its devices hold.

    Returns:
      The model, and its tokenizer: None if the directory has no tokenizer files.

    Raises:
      ValueError: naming what is missing, unknown, corrupt or not supported, and the remedy.

    Examples:
      >>> model, tokenizer = load("factlm")
      >>> model.config.family
      'gpt2'
    """
    directory = locate(name_or_path)
    return load_model(directory, dtype=dtype, mesh=mesh), load_tokenizer(directory)


def load_model(
    directory: Path, *, dtype: DTypeLike = jnp.float32, mesh: Mesh | None = None
) -> Model:
    """The model of a local directory; see `load`."""
    if jnp.dtype(dtype) not in (jnp.float32, jnp.bfloat16):
        raise ValueError(f"dtype: expected float32 or bfloat16, found {jnp.dtype(dtype).name}")
    checkpoint = open_checkpoint(directory)
    _check_copies(checkpoint)
    graph, parameters = abstract_model(checkpoint.family, checkpoint.config, dtype)
    leaves = {path_name(path): leaf for path, leaf in parameters.items()}
    shardings = _shardings(leaves, checkpoint.config, mesh)
    missing = collections.Counter(entry.target for entry in checkpoint.entries)
    values: dict[str, Parts] = {}
    filled: dict[str, jax.Array] = {}
    for entry in _by_source(checkpoint.entries):
        name = entry.target
        if name not in values:
            values[name] = Parts(leaves[name].shape, leaves[name].dtype, shardings[name])
        values[name].read(entry, checkpoint.tensors[entry.source])
        missing[name] -= 1
        if not missing[name]:
            filled[name] = values.pop(name).on_devices()
    state = [(path, leaf.replace(filled[path_name(path)])) for path, leaf in parameters.items()]
    return nnx.merge(graph, nnx.from_flat_state(state))


def _shardings(
    paths: Iterable[str], config: ModelConfig, mesh: Mesh | None
) -> dict[str, NamedSharding | None]:
    """Where each parameter is to lie; None for the default device."""
    if mesh is None:
        return dict.fromkeys(paths)
    mesh = checked_mesh(mesh)
    specs = partitions(paths, config, mesh)
    return {path: NamedSharding(mesh, spec) for path, spec in specs.items()}


def _check_copies(checkpoint: Checkpoint) -> None:
    """A tied head that is stored all the same is the embedding: torch would use it if it is not."""
    tensors = checkpoint.tensors
    for copy, original in checkpoint.copies.items():
        if not equal(tensors[copy], tensors[original]):
            raise ValueError(
                f"{tensors[copy].path}: {copy}: expected the numbers of {original}, to which "
                "config.json ties it, found others; if the head was trained apart, set "
                "tie_word_embeddings to false in config.json, and if not, remove this tensor"
            )


def _by_source(entries: Iterable[Entry]) -> Iterator[Entry]:
    """Entries in their order, but those of one tensor together, so that it is read once."""
    sources: dict[str, list[Entry]] = {}
    for entry in entries:
        sources.setdefault(entry.source, []).append(entry)
    return itertools.chain.from_iterable(sources.values())
