"""Safetensors files, written tensor by tensor: memory holds one tensor, whatever the shard."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from kis_jax.checkpoints.mapped import Shape
from kis_jax.checkpoints.pieces import pieces
from kis_jax.checkpoints.safetensors_header import DTYPES, read_metadata
from kis_jax.checkpoints.tensors import INDEX, SINGLE

_CODES = {dtype: code for code, dtype in DTYPES.items()}


_MARK = "kis_jax"  # in the header of every file of weights that may be replaced later


def mark() -> dict[str, str]:
    """Metadata for a file that a later run may replace, as `is_marked` tells."""
    return {"format": "pt", _MARK: importlib.metadata.version("kis_jax")}


def is_marked(path: Path) -> bool:
    """Whether a file is one of safetensors that was written with `mark`."""
    try:
        return _MARK in read_metadata(path)
    except ValueError:  # another format, or damaged
        return False


@dataclasses.dataclass(frozen=True)
class Unwritten:
    """A tensor that is made when its turn to be written comes.

    Attributes:
      shape: its shape.
      dtype: its dtype.
      values: makes it; called once.
      forget: called when a piece is written.
    """

    shape: Shape
    dtype: np.dtype
    values: Callable[[], np.ndarray]
    forget: Callable[[], None] = lambda: None

    @property
    def size(self) -> int:
        """Number of bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


def write_weights(
    directory: Path,
    tensors: Mapping[str, Unwritten],
    *,
    metadata: Mapping[str, str],
    max_shard_size: int,
) -> None:
    """Writes `model.safetensors`, or shards with an index where it would be larger than allowed.

    Args:
      directory: that holds no weights yet.
      tensors: in the order in which they are to be dealt out to shards.
      metadata: strings for the header of each file.
      max_shard_size: bytes of tensors in a file; a larger tensor has a file of its own.
    """
    shards = _dealt(tensors, max_shard_size)
    if len(shards) == 1:
        write_safetensors(directory / SINGLE, tensors, metadata=metadata)
        return
    weight_map = {}
    for number, names in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        weight_map |= dict.fromkeys(names, file)
        part = {name: tensors[name] for name in names}
        write_safetensors(directory / file, part, metadata=metadata)
    total = sum(tensor.size for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (directory / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def write_safetensors(
    path: Path, tensors: Mapping[str, Unwritten], *, metadata: Mapping[str, str]
) -> None:
    """Writes one file; the widest dtypes first, so that every tensor is aligned to its own.

    Raises:
      ValueError: from `Unwritten.values`; what was written by then is left under this path.
    """
    ordered = sorted(tensors.items(), key=lambda item: -item[1].dtype.itemsize)
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    end = 0
    for name, tensor in ordered:
        start, end = end, end + tensor.size
        header[name] = {
            "dtype": _CODES[tensor.dtype],
            "shape": tensor.shape,
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, tensor in ordered:
            values = tensor.values()
            for rows in pieces(values, axis=0):
                file.write(values[rows].tobytes())
                tensor.forget()


def _dealt(tensors: Mapping[str, Unwritten], max_shard_size: int) -> list[list[str]]:
    """Names in their order, cut into shards of no more than the size allowed."""
    shards: list[list[str]] = [[]]
    room = max_shard_size
    for name, tensor in tensors.items():
        if shards[-1] and tensor.size > room:
            shards.append([])
            room = max_shard_size
        shards[-1].append(name)
        room -= tensor.size
    return shards
