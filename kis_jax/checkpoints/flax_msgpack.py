"""The tensors of a Flax msgpack file, found without reading them.

Such a file has no header: arrays stand at the leaves of nested maps. This walks over the maps
and steps over the arrays' bytes, so that they are read one by one, as those of safetensors are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from kis_jax.checkpoints.files import without_duplicates
from kis_jax.checkpoints.mapped import MappedFile, StoredTensor

_ARRAY = 1  # Flax's code for an array among msgpack's extensions
_CHUNKED = "__msgpack_chunked_array__"  # arrays over 1 GiB are cut into several


def open_msgpack(path: Path) -> dict[str, StoredTensor]:
    """Tensors of a Flax checkpoint under the names and in the layout that torch gives them.

    Transformers' own rule between the two: `kernel` is the transposed `weight`, `scale` and
    `embedding` are `weight`.

    Raises:
      ValueError: if the file is truncated or corrupt, holds anything but maps and arrays, or
        gives two arrays one name.
    """
    walker = _Walker(MappedFile(path))
    try:
        tree = walker.item()
        if not isinstance(tree, dict) or walker.place != len(walker.file):
            raise ValueError(f"no map, or bytes left over from byte {walker.place} on")
        return without_duplicates(list(_flatten(tree, ())))
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path}: expected a whole Flax msgpack file, found it truncated or corrupt "
            f"({str(error)[:200]}); download it again"
        ) from None


def _flatten(tree: dict[str, Any], parents: tuple[str, ...]) -> Iterator[tuple[str, StoredTensor]]:
    for name, item in tree.items():
        if isinstance(item, dict) and _CHUNKED in item:
            item = _joined(item)
        if isinstance(item, dict):
            yield from _flatten(item, (*parents, name))
        elif not isinstance(item, StoredTensor):
            raise ValueError(f"{'.'.join((*parents, name))} is no array")
        elif name == "kernel":
            yield ".".join((*parents, "weight")), _transposed(item)
        else:
            leaf = "weight" if name in ("scale", "embedding") else name
            yield ".".join((*parents, leaf)), item


def _transposed(tensor: StoredTensor) -> StoredTensor:
    return StoredTensor(
        tensor.path, tensor.shape[::-1], tensor.dtype, lambda: tensor.array().T, tensor.forget
    )


def _joined(item: dict[str, Any]) -> StoredTensor:
    """An array that Flax has cut into chunks; the only kind that is copied when it is read."""
    sizes, chunks = item.get("shape"), item.get("chunks")
    if not isinstance(sizes, dict) or not isinstance(chunks, dict) or not chunks:
        raise ValueError("an array in chunks without a shape or chunks")
    shape, parts = tuple(sizes.values()), list(chunks.values())
    if not all(isinstance(size, int) for size in shape) or not all(
        isinstance(part, StoredTensor) and part.dtype == parts[0].dtype for part in parts
    ):
        raise ValueError("an array in chunks of different kinds")
    if sum(math.prod(part.shape) for part in parts) != math.prod(shape):
        raise ValueError(f"an array in chunks that do not add up to shape {shape}")

    def array() -> np.ndarray:
        return np.concatenate([part.array().reshape(-1) for part in parts]).reshape(shape)

    return StoredTensor(parts[0].path, shape, parts[0].dtype, array, parts[0].forget)


class _Walker:
    """Reads msgpack items from a place on, and leaves out the bytes of arrays."""

    def __init__(self, file: MappedFile) -> None:
        self.file = file
        self.place = 0

    def item(self) -> Any:
        """The next item: a map, string, number or flag, list, or tensor."""
        code = self._number(1)
        if code <= 0x7F:
            return code
        if code <= 0x8F:
            return self._map(code & 0x0F)
        if code <= 0x9F:
            return [self.item() for _ in range(code & 0x0F)]
        if code <= 0xBF:
            return self._string(code & 0x1F)
        match code:
            case 0xC2 | 0xC3:
                return code == 0xC3
            case 0xC7 | 0xC8 | 0xC9:
                return self._extension(self._number(1 << code - 0xC7))
            case 0xD4 | 0xD5 | 0xD6 | 0xD7 | 0xD8:
                return self._extension(1 << code - 0xD4)
            case 0xCC | 0xCD | 0xCE | 0xCF:
                return self._number(1 << code - 0xCC)
            case 0xD9 | 0xDA | 0xDB:
                return self._string(self._number(1 << code - 0xD9))
            case 0xDE | 0xDF:
                return self._map(self._number(2 << code - 0xDE))
        raise ValueError(f"an item of kind {code:#x} at byte {self.place - 1}")

    def _number(self, size: int) -> int:
        return int.from_bytes(self._take(size), "big")

    def _take(self, size: int) -> bytes:
        start = self._step_over(size)
        return self.file.bytes(start, start + size)

    def _step_over(self, size: int) -> int:
        start, self.place = self.place, self.place + size
        if self.place > len(self.file):
            raise ValueError(f"{size} bytes wanted from byte {start} of {len(self.file)}")
        return start

    def _string(self, size: int) -> str:
        text = self._take(size).decode()
        if not text.isprintable():
            raise ValueError(f"the name {text!r}")
        return text

    def _map(self, size: int) -> dict[str, Any]:
        content: dict[str, Any] = {}
        for _ in range(size):
            name = self.item()
            if not isinstance(name, str) or name in content:
                raise ValueError(f"the name {name!r} twice, or no string")
            content[name] = self.item()
        return content

    def _extension(self, size: int) -> StoredTensor:
        """An array: a list of its shape, the name of its dtype, and its bytes."""
        stop = self.place + 1 + size
        if self._number(1) != _ARRAY or self._number(1) != 0x93:
            raise ValueError(f"no array at byte {self.place}")
        shape, name = self.item(), self.item()
        if not isinstance(shape, list) or not all(type(axis) is int for axis in shape):
            raise ValueError(f"an array of shape {shape!r}")
        dtype = _dtype(name)
        code = self._number(1)
        if code not in (0xC4, 0xC5, 0xC6):
            raise ValueError(f"an array without bytes at byte {self.place}")
        length = self._number(1 << code - 0xC4)
        start = self._step_over(length)
        if self.place != stop or length != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"{length} bytes for an array {name}{shape}")
        array = lambda: self.file.array(start, tuple(shape), dtype)  # noqa: E731
        return StoredTensor(self.file.path, tuple(shape), dtype, array, self.file.forget)


def _dtype(name: Any) -> np.dtype:
    if name == "bfloat16":
        return np.dtype(jnp.bfloat16)
    if not isinstance(name, str) or name not in np.sctypeDict or name in ("O", "object"):
        raise ValueError(f"an array of dtype {name!r}")
    dtype = np.dtype(name)
    if dtype.kind not in "biuf":
        raise ValueError(f"an array of dtype {name!r}")
    return dtype
