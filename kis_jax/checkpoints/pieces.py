"""Copies between mapped files and arrays, in pieces, so that memory holds one piece of a file."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from kis_jax.checkpoints.mapped import StoredTensor
from kis_jax.models.families.family import Layout

_PIECE = 32 * 2**20  # bytes
_ALIGNMENT = 64  # bytes; what XLA asks of memory that it takes over without a copy

Piece = tuple[slice, ...]


def pieces(view: np.ndarray, *, axis: int | None = None) -> Iterator[Piece]:
    """Slices that cut an array along an axis; if None, the one on which it is laid out slowest."""
    if view.ndim == 0:
        yield ()
        return
    if axis is None:
        strides = [abs(s) if n > 1 else 0 for s, n in zip(view.strides, view.shape, strict=True)]
        axis = int(np.argmax(strides))
    length = view.shape[axis]
    step = max(1, _PIECE * length // max(1, view.nbytes))
    for start in range(0, length, step):
        yield (*(slice(None),) * axis, slice(start, start + step))


def empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An array of which `jax.device_put` makes one without a copy, where memory is shared."""
    size = int(np.prod(shape)) * dtype.itemsize
    memory = np.empty(size + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(shape)


def equal(left: StoredTensor, right: StoredTensor) -> bool:
    """Whether two tensors of one shape hold the same numbers; whatever their dtypes."""
    ours, theirs = left.array(), right.array()
    for piece in pieces(ours):
        same = bool((ours[piece] == theirs[piece]).all())
        left.forget()
        right.forget()
        if not same:
            return False
    return True


def read_into(
    target: np.ndarray,
    name: str,
    tensor: StoredTensor,
    layout: Layout,
    index: Piece,
) -> None:
    """Fills a parameter, or one layer or part of it, from a tensor, and converts its dtype.

    Args:
      target: to be filled.
      name: of the tensor, for messages.
      tensor: that holds it.
      layout: how it lies there.
      index: slices of step 1 that cut the target from the whole parameter, or its layer.

    Raises:
      ValueError: if a number is not finite. That is all that can be seen of a damaged body: a bit
        flipped in a number may well leave a number.
    """
    view = _cut(layout.view(tensor.array()), index)
    target = target.reshape(view.shape)  # a view, as parameters are contiguous
    for piece in pieces(view):
        with np.errstate(over="ignore"):  # what is too large is named below
            target[piece] = view[piece]
        finite = np.isfinite(target[piece])
        if not finite.all():
            raise ValueError(
                f"{tensor.path}: {name}: expected finite weights, found "
                f"{finite.size - np.count_nonzero(finite)} in a piece of {finite.size} that are "
                f"not finite as {target.dtype}; the file is damaged, or its training failed: "
                "download it again, and compare its SHA-256 with that of the hub, as most damage "
                "to weights shows nowhere else"
            )
        tensor.forget()


def _cut(view: np.ndarray, index: Piece) -> np.ndarray:
    """The part of a view that slices cut from its parameter.

    A view may have the last axis of its parameter in two: heads, and the features of each. Its
    parts are whole heads, as no plan of shardings lays one head on two devices.
    """
    if view.ndim == len(index):
        return view[index]
    features = view.shape[-1]
    last = slice(*(end // features for end in index[-1].indices(view.shape[-2] * features)[:2]))
    return view[(*index[:-1], last)]
