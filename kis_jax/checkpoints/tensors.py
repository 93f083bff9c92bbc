"""The tensors of a checkpoint directory, listed without reading them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from kis_jax.checkpoints.files import find, listed, read_json
from kis_jax.checkpoints.flax_msgpack import open_msgpack
from kis_jax.checkpoints.mapped import StoredTensor
from kis_jax.checkpoints.safetensors_header import open_safetensors

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
MSGPACK = "flax_model.msgpack"
_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "tf_model.h5", "model.ckpt.index")


def open_tensors(directory: Path) -> dict[str, StoredTensor]:
    """The tensors of a checkpoint by their names, in torch's naming; none is read.

    Each file is opened once, and stays open as long as one of its tensors is referred to. Looks
    for `model.safetensors`, its sharded form with an index, then `flax_model.msgpack`. A pickle
    is never opened.

    Args:
      directory: in HuggingFace layout.

    Raises:
      ValueError: if there is no such file, or one is truncated, corrupt, or outside `directory`;
        if a name stands in two shards; or if shards and index disagree.
    """
    files = weight_files(directory)
    if files[0].name == MSGPACK:
        return open_msgpack(files[0])
    shards = {path.name: open_safetensors(path) for path in files}
    if files[0].name != SINGLE:
        _check_index(directory, shards)
    return {name: tensor for shard in shards.values() for name, tensor in shard.items()}


def has_weights(directory: Path) -> bool:
    """Whether there are weights in a format that can be read safely, whole or not."""
    return any(find(directory, name) is not None for name in (SINGLE, INDEX, MSGPACK))


def weight_files(directory: Path) -> list[Path]:
    """The files that hold the weights of a checkpoint directory, in order of their names.

    Raises:
      ValueError: if there are none in a format that can be read safely; if the index names a
        file that is missing or outside `directory`; or if there are two sets of weights.
    """
    single, index = find(directory, SINGLE), find(directory, INDEX)
    if single is not None:
        # Transformers reads the single file and leaves the index alone; where the shards are
        # there too, one of the two is out of date, and which one cannot be told.
        if index is not None and (others := _shards_present(directory)):
            raise ValueError(
                f"{directory}: expected one set of weights, found both {SINGLE} and shards, "
                f"such as {others[0]}; remove the one that is out of date"
            )
        return [single]
    if index is not None:
        return [_shard(directory, name) for name in sorted(set(_read_index(directory).values()))]
    if (msgpack := find(directory, MSGPACK)) is not None:
        return [msgpack]
    pickles = [name for name in _PICKLES if (directory / name).exists()]
    if pickles:
        raise ValueError(
            f"{directory}: expected {SINGLE} or {MSGPACK}, found {pickles[0]}, a format that "
            "can run code when it is opened; load it once with torch transformers in a place you "
            "trust, and call model.save_pretrained(...), which writes safetensors"
        )
    raise ValueError(
        f"{directory}: expected weights in {SINGLE}, {INDEX} or {MSGPACK}, found none; "
        "download the whole checkpoint"
    )


def _shards_present(directory: Path) -> list[str]:
    names = sorted(set(_read_index(directory).values()) - {SINGLE})
    return [name for name in names if find(directory, name) is not None]


def _read_index(directory: Path) -> Mapping[str, str]:
    index = read_json(directory, INDEX).get("weight_map")
    if not isinstance(index, dict) or not all(isinstance(shard, str) for shard in index.values()):
        raise ValueError(
            f"{directory / INDEX}: expected a `weight_map` from tensors to files, found "
            f"{type(index).__name__}; download the index again"
        )
    if not index:
        raise ValueError(f"{directory / INDEX}: `weight_map` is empty; download the index again")
    return index


def _shard(directory: Path, name: str) -> Path:
    try:
        path = find(directory, name)
    except ValueError as error:
        raise ValueError(f"{directory / INDEX}: names {name!r}: {error}") from None
    if path is None:
        raise ValueError(
            f"{directory / INDEX}: names {name}, which is missing; download the whole checkpoint"
        )
    return path


def _check_index(directory: Path, shards: Mapping[str, Mapping[str, StoredTensor]]) -> None:
    """Each tensor stands in the one shard that the index names."""
    expected = set(_read_index(directory).items())
    found = {(name, shard) for shard, tensors in shards.items() for name in tensors}
    if expected != found:
        wrong = [f"{name} in {shard}" for name, shard in sorted(expected ^ found)]
        raise ValueError(
            f"{directory / INDEX}: expected index and shards to agree, found them to differ in "
            f"{listed(wrong)}; download the index and these shards again"
        )
