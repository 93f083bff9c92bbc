"""Export: a model that came from a checkpoint, back to a directory in HuggingFace layout."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np

from kis_jax.checkpoints.companions import COMPANIONS
from kis_jax.checkpoints.files import check_replaceable, find, write_directory_atomically
from kis_jax.checkpoints.hub import locate
from kis_jax.checkpoints.mapped import StoredTensor
from kis_jax.checkpoints.opening import Checkpoint, open_checkpoint
from kis_jax.checkpoints.pieces import pieces
from kis_jax.checkpoints.saving import parameters_of, part_of
from kis_jax.checkpoints.table import Entry
from kis_jax.checkpoints.tensors import INDEX, weight_files
from kis_jax.checkpoints.writing import Unwritten, is_marked, mark, write_weights
from kis_jax.models import Model


def export(
    model: Model,
    directory: str | Path,
    *,
    source: str | Path,
    metadata: Mapping[str, str] | None = None,
    max_shard_size: int = 5 * 10**9,
) -> list[str]:
    """Writes a model, edited or not, as a checkpoint that torch transformers loads.

    What was not changed keeps the bits of the checkpoint that the model came from: weights in
    that checkpoint's dtype, whatever the model computes in, and the files of configuration,
    tokenizer and license that transformers has names for. A changed number is rounded to the
    dtype of the tensor in which it stands. Memory holds the model and
    one tensor; nothing stands under the final name before all of it is written.

    Args:
      model: loaded from `source`; any of its parameters may have been changed.
      directory: that is made. One that holds nothing, or an earlier export and nothing else, is
        replaced.
      source: the checkpoint that the model was loaded from, as it was named to `load`.
      metadata: strings that tell of the edit, for the header of each file of weights.
      max_shard_size: in bytes; larger weights are cut into shards with an index.

    Returns:
      The names of the tensors that differ from those of `source`.

    Raises:
      ValueError: if `source` holds a model of another shape; if `directory` holds something else;
        or if a changed number is not finite, or too large for the dtype of its tensor.

    Examples:
      >>> import tempfile
      >>> from kis_jax import load
      >>> model, _ = load("factlm")
      >>> kernel = model.blocks.mlp.output.kernel
      >>> kernel[...] = kernel[...].at[1, 0, 0].add(1.0)
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     export(model, folder, source="factlm", metadata={"edit": "one number"})
      ['transformer.h.1.mlp.c_proj.weight']
    """
    checkpoint = open_source(model, source)
    directory = Path(directory)
    if directory.exists() and directory.samefile(checkpoint.directory):
        raise ValueError(f"{directory}: expected another directory than the source; name a new one")
    check_replaceable(directory, kind="export", foreign=foreign_to_export)
    with write_directory_atomically(directory) as temporary:
        return write_export(
            model, temporary, checkpoint, metadata=metadata, max_shard_size=max_shard_size
        )


def open_source(model: Model, source: str | Path) -> Checkpoint:
    """The checkpoint that a model was loaded from.

    Raises:
      ValueError: if it holds a model of another shape.
    """
    checkpoint = open_checkpoint(locate(source))
    if checkpoint.config != model.config:
        raise ValueError(
            f"source: expected the checkpoint that the model was loaded from, {model.config}, "
            f"found {checkpoint.config} in {checkpoint.directory}"
        )
    return checkpoint


def write_export(
    model: Model,
    directory: Path,
    checkpoint: Checkpoint,
    *,
    metadata: Mapping[str, str] | None = None,
    max_shard_size: int = 5 * 10**9,
) -> list[str]:
    """Writes what `export` writes, into a directory that the caller puts in its place.

    Returns:
      The names of the tensors that differ from those of the checkpoint.
    """
    changed: list[str] = []
    write_weights(
        directory,
        _tensors(model, checkpoint, changed),
        metadata=_checked_metadata(metadata or {}),
        max_shard_size=max_shard_size,
    )
    for name in sorted(COMPANIONS):
        if (path := find(checkpoint.directory, name)) is not None:
            shutil.copyfile(path, directory / name)
    return sorted(changed)


def _checked_metadata(metadata: Mapping[str, str]) -> dict[str, str]:
    reserved = mark()
    for name, value in metadata.items():
        if not isinstance(name, str) or not isinstance(value, str) or name in reserved:
            raise ValueError(
                f"metadata: expected strings under names other than {', '.join(reserved)}, found "
                f"{name!r}: {value!r}; write numbers as strings"
            )
    return reserved | dict(metadata)


def foreign_to_export(directory: Path) -> set[str]:
    """What an export has not written; everything, where there is no file of weights of one."""
    names = {path.name for path in directory.iterdir()}
    try:
        weights = {path.name for path in weight_files(directory) if is_marked(path)}
    except ValueError:  # none, or not all
        weights = set()
    return names - weights - COMPANIONS - {INDEX} if weights else names


def _tensors(model: Model, checkpoint: Checkpoint, changed: list[str]) -> dict[str, Unwritten]:
    """All tensors of the source, each with the parameters that lie in it; fills in `changed`."""
    parameters = parameters_of(model)
    entries: dict[str, list[Entry]] = {}
    for entry in checkpoint.entries:
        entries.setdefault(entry.source, []).append(entry)
    for name, original in checkpoint.copies.items():
        entries[name] = entries[original]

    def values(name: str) -> np.ndarray:
        array = checkpoint.tensors[name].array()
        edited = _edited(name, checkpoint.tensors[name], entries.get(name, []), parameters)
        if edited is None:
            return array
        changed.append(name)
        return edited

    return {
        name: Unwritten(tensor.shape, tensor.dtype, functools.partial(values, name), tensor.forget)
        for name, tensor in checkpoint.tensors.items()
    }


def _edited(
    name: str, tensor: StoredTensor, entries: list[Entry], parameters: Mapping[str, jax.Array]
) -> np.ndarray | None:
    """A copy of a tensor with the numbers that differ in the model put in; None if none does."""
    stored, edited = tensor.array(), None
    for entry in entries:
        view = entry.layout.view(stored)
        values = part_of(parameters, entry).reshape(view.shape)
        for piece in pieces(view):
            # Held against what loading made of the file, so that a model in bfloat16 does not
            # take the float32 of its file with it.
            differs = view[piece].astype(values.dtype) != values[piece]
            tensor.forget()
            if not differs.any():
                continue
            if edited is None:
                edited = np.array(stored)
            with np.errstate(over="ignore"):  # named below
                encoded = values[piece].astype(tensor.dtype)
            if not np.isfinite(encoded[differs]).all():
                raise ValueError(
                    f"model: expected finite weights that fit {tensor.dtype}, the dtype of {name} "
                    f"in {tensor.path}, found that {entry.target} has others"
                    + ("" if entry.layer is None else f" in layer {entry.layer}")
                    + "; check the edit"
                )
            np.copyto(entry.layout.view(edited)[piece], encoded, where=differs)
    return edited
