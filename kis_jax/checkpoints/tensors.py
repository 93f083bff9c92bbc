"""The tensors of a checkpoint directory, listed from headers and read one by one."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_MSGPACK = "flax_model.msgpack"
_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "tf_model.h5", "model.ckpt.index")


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file, unread.

    Attributes:
      shape: its shape.
      read: reads it, in the dtype of the file.
    """

    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]


def open_tensors(directory: Path) -> dict[str, StoredTensor]:
    """The tensors of a checkpoint by their names, in torch's naming, headers read only.

    Looks for `model.safetensors`, its sharded form with an index, then `flax_model.msgpack`
    (which has no header and is read whole). A pickle is never opened.

    Args:
      directory: in HuggingFace layout.

    Raises:
      ValueError: if there is no such file, or one is truncated, corrupt, or outside `directory`;
        if a name stands in two shards; or if shards and index disagree.
    """
    files = weight_files(directory)
    if files[0].name == _MSGPACK:
        return _open_msgpack(files[0])
    shards = {path.name: _open_safetensors(path) for path in files}
    if (directory / _INDEX).exists():
        _check_index(directory, shards)
    return {name: tensor for shard in shards.values() for name, tensor in shard.items()}


def weight_files(directory: Path) -> list[Path]:
    """The files that hold the weights of a checkpoint directory, in order of their names.

    Raises:
      ValueError: if there are none in a format that can be read safely, or if the index names a
        file that is missing or outside `directory`.
    """
    if (directory / _SINGLE).exists():
        return [directory / _SINGLE]
    if (directory / _INDEX).exists():
        shards = sorted(set(_read_index(directory).values()))
        return [_inside(directory, shard) for shard in shards]
    if (directory / _MSGPACK).exists():
        return [directory / _MSGPACK]
    pickles = [name for name in _PICKLES if (directory / name).exists()]
    if pickles:
        raise ValueError(
            f"{directory}: expected {_SINGLE} or {_MSGPACK}, found {pickles[0]}, a format that "
            "can run code when it is opened; load it once with torch transformers in a place you "
            "trust, and call model.save_pretrained(...), which writes safetensors"
        )
    raise ValueError(
        f"{directory}: expected weights in {_SINGLE}, {_INDEX} or {_MSGPACK}, found none; "
        "download the whole checkpoint"
    )


def _read_index(directory: Path) -> Mapping[str, str]:
    index = read_json(directory / _INDEX).get("weight_map")
    if not isinstance(index, dict) or not all(isinstance(shard, str) for shard in index.values()):
        raise ValueError(
            f"{directory / _INDEX}: expected a `weight_map` from tensors to files, found "
            f"{type(index).__name__}; download the index again"
        )
    if not index:
        raise ValueError(f"{directory / _INDEX}: `weight_map` is empty; download the index again")
    return index


def _inside(directory: Path, shard: str) -> Path:
    """The path of a shard, which must be a plain name: an index must not reach elsewhere."""
    if Path(shard).name != shard or "\\" in shard:
        raise ValueError(
            f"{directory / _INDEX}: expected names of files beside it, found {shard!r}, which "
            "points elsewhere; do not trust this checkpoint"
        )
    path = directory / shard
    if not path.is_file():
        raise ValueError(
            f"{directory / _INDEX}: names {shard}, which is missing; download the whole checkpoint"
        )
    return path


def _check_index(directory: Path, shards: Mapping[str, Mapping[str, StoredTensor]]) -> None:
    """Each tensor stands in the one shard that the index names."""
    expected = set(_read_index(directory).items())
    found = {(name, shard) for shard, tensors in shards.items() for name in tensors}
    if expected != found:
        wrong = ", ".join(f"{name} in {shard}" for name, shard in sorted(expected ^ found))
        raise ValueError(
            f"{directory / _INDEX}: expected index and shards to agree, found them to differ in "
            f"{wrong}; download the index and these shards again"
        )


def _open_safetensors(path: Path) -> dict[str, StoredTensor]:
    try:
        with safe_open(path, framework="numpy") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{path}: expected a whole safetensors file, found it truncated or corrupt ({error}); "
            "download it again"
        ) from error

    def reader(name: str) -> Callable[[], np.ndarray]:
        def read() -> np.ndarray:
            with safe_open(path, framework="numpy") as file:
                return file.get_tensor(name)

        return read

    return {name: StoredTensor(shape, reader(name)) for name, shape in shapes.items()}


def _open_msgpack(path: Path) -> dict[str, StoredTensor]:
    """Tensors of a Flax checkpoint under the names and in the layout that torch gives them.

    Transformers' own rule between the two: `kernel` is the transposed `weight`, `scale` and
    `embedding` are `weight`.
    """
    from flax.serialization import msgpack_restore
    from flax.traverse_util import flatten_dict

    try:
        arrays = {
            tuple(map(str, names)): np.asarray(array)
            for names, array in flatten_dict(msgpack_restore(path.read_bytes())).items()
        }
    except Exception as error:  # msgpack raises its own, struct's, numpy's and plain ValueErrors
        raise ValueError(
            f"{path}: expected a whole Flax msgpack file, found it truncated or corrupt "
            f"({error}); download it again"
        ) from error
    tensors = {}
    for names, array in arrays.items():
        parent, leaf = names[:-1], names[-1]
        if leaf == "kernel":
            array = array.T
        leaf = "weight" if leaf in ("kernel", "scale", "embedding") else leaf
        tensors[".".join((*parent, leaf))] = StoredTensor(array.shape, lambda array=array: array)
    return tensors


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
      ValueError: if the file is missing, or is not JSON, naming the line; or holds no object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise ValueError(
            f"{path}: no such file; expected a directory in HuggingFace layout (config.json, "
            "model.safetensors, tokenizer files)"
        ) from None
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path}: expected JSON, found {error.msg} at line {error.lineno} column {error.colno}"
        ) from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected UTF-8 text, found {error.reason}") from None
    except (ValueError, RecursionError) as error:  # numbers too long, lists too deep
        raise ValueError(f"{path}: expected JSON, found {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content
