"""The header of a safetensors file: read and checked here, so that nothing else need be read.

The format: eight bytes, the length of the header; the header, a JSON object from names to dtype,
shape and place; then the tensors' bytes, one after another with no gap.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, TypeGuard

import jax.numpy as jnp
import numpy as np

from kis_jax.checkpoints.files import without_duplicates
from kis_jax.checkpoints.mapped import MappedFile, StoredTensor

DTYPES: dict[str, np.dtype] = {
    "BOOL": np.dtype(np.bool_),
    "U8": np.dtype(np.uint8),
    "I8": np.dtype(np.int8),
    "U16": np.dtype("<u2"),
    "I16": np.dtype("<i2"),
    "U32": np.dtype("<u4"),
    "I32": np.dtype("<i4"),
    "U64": np.dtype("<u8"),
    "I64": np.dtype("<i8"),
    "F8_E4M3": np.dtype(jnp.float8_e4m3fn),
    "F8_E5M2": np.dtype(jnp.float8_e5m2),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(jnp.bfloat16),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
    "C64": np.dtype("<c8"),
}
_LONGEST_HEADER = 100 * 2**20  # as the safetensors library has it


class _UnknownDtypeError(ValueError):
    """A dtype that may well be in order, in a format newer than this reader."""


def open_safetensors(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a file by their names; only its header is read.

    Raises:
      ValueError: if the file is truncated or corrupt in a way that the header shows.
    """
    return _opened(path)[1]


def read_metadata(path: Path) -> dict[str, str]:
    """The free-form strings in the header of a file.

    Raises:
      ValueError: as `open_safetensors`.
    """
    return _opened(path)[0]


def _opened(path: Path) -> tuple[dict[str, str], dict[str, StoredTensor]]:
    """Metadata and tensors."""
    file = MappedFile(path)
    try:
        return _read_header(file)
    except _UnknownDtypeError as error:
        raise ValueError(
            f"{path}: expected tensors of {', '.join(DTYPES)}, found {error}, which kis_jax does "
            "not know; if the file is quantized, use the original checkpoint"
        ) from None
    except ValueError as error:
        raise ValueError(
            f"{path}: expected a whole safetensors file, found it truncated or corrupt "
            f"({str(error)[:200]}); download it again"
        ) from None


def _read_header(file: MappedFile) -> tuple[dict[str, str], dict[str, StoredTensor]]:
    length = int.from_bytes(file.bytes(0, 8), "little")
    body = 8 + length
    if len(file) < 8 or length > min(_LONGEST_HEADER, len(file) - 8):
        raise ValueError(f"a header of {length} bytes in a file of {len(file)}")
    try:
        header = json.loads(file.bytes(8, body), object_pairs_hook=without_duplicates)
    except RecursionError:
        raise ValueError("a header nested too deeply") from None
    if not isinstance(header, dict):
        raise ValueError("a header that is no JSON object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ValueError("metadata that are not strings")
    tensors, end = {}, 0
    for name, entry in sorted(header.items(), key=_place):
        dtype, shape, (start, stop) = _checked(name, entry)
        if start != end:
            raise ValueError(f"tensor {name} at byte {start} where the one before ends at {end}")
        tensors[name] = _tensor(file, body + start, shape, dtype)
        end = stop
    if body + end != len(file):
        raise ValueError(f"{body + end} bytes by its header, {len(file)} in fact")
    return metadata, tensors


def _tensor(file: MappedFile, start: int, shape: tuple[int, ...], dtype: np.dtype) -> StoredTensor:
    array = lambda: file.array(start, shape, dtype)  # noqa: E731
    return StoredTensor(file.path, shape, dtype, array, file.forget)


def _place(item: tuple[str, Any]) -> tuple[int, int]:
    """Where a tensor starts and stops; any place for an entry that is refused later."""
    name, entry = item
    offsets = entry.get("data_offsets") if isinstance(entry, dict) else None
    if not _are_sizes(offsets) or len(offsets) != 2:
        raise ValueError(f"tensor {name!r}: data_offsets {offsets!r}")
    return offsets[0], offsets[1]


def _checked(name: str, entry: dict[str, Any]) -> tuple[np.dtype, tuple[int, ...], list[int]]:
    code, shape, offsets = entry.get("dtype"), entry.get("shape"), entry["data_offsets"]
    if not name.isprintable():
        raise ValueError(f"a tensor of the name {name!r}")
    if not isinstance(code, str) or code not in DTYPES:
        raise _UnknownDtypeError(f"tensor {name}: dtype {str(code)[:80]!r}")
    if not _are_sizes(shape) or len(shape) > 32:
        raise ValueError(f"tensor {name}: shape {str(shape)[:80]}")
    size = math.prod(shape) * DTYPES[code].itemsize
    if offsets[1] - offsets[0] != size:
        raise ValueError(
            f"tensor {name}: {offsets[1] - offsets[0]} bytes where {code}{shape} has {size}"
        )
    return DTYPES[code], tuple(shape), offsets


def _are_sizes(values: Any) -> TypeGuard[list[int]]:
    return isinstance(values, list) and all(
        isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**62
        for value in values
    )
