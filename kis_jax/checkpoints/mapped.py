"""Tensors that lie unread in a file: its pages come as they are used, and go when told to."""

from __future__ import annotations

import dataclasses
import math
import mmap
from collections.abc import Callable
from pathlib import Path

import numpy as np

Shape = tuple[int, ...]


class MappedFile:
    """A file mapped into memory to be read; open as long as anything refers to it.

    Raises:
      ValueError: if it is empty or cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        """Maps the whole file; nothing is read."""
        self.path = path
        try:
            with path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:  # mmap refuses empty files by a ValueError
            raise ValueError(
                f"{path}: expected a file of weights, found it truncated or corrupt ({error}); "
                "download it again"
            ) from None

    def __len__(self) -> int:
        """Number of bytes."""
        return len(self._map)

    def bytes(self, start: int, stop: int) -> bytes:
        """A copy of some bytes."""
        return self._map[start:stop]

    def array(self, start: int, shape: Shape, dtype: np.dtype) -> np.ndarray:
        """The numbers from a place on, unread; the array cannot be written to."""
        count = math.prod(shape)
        if count == 0:  # NumPy takes no empty buffer at the end of a file
            return np.empty(shape, dtype)
        return np.frombuffer(self._map, dtype, count=count, offset=start).reshape(shape)

    def forget(self) -> None:
        """Gives the pages that were read back to the system; what is used again is read again."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file, unread.

    Attributes:
      path: of the file.
      shape: its shape.
      dtype: its dtype, that of the file.
      array: the tensor as an array that cannot be written to, whose parts are read when they are
        used; a slice of it reads that slice alone.
      forget: gives the memory of the parts that were read back to the system.
    """

    path: Path
    shape: Shape
    dtype: np.dtype
    array: Callable[[], np.ndarray]
    forget: Callable[[], None]

    @property
    def nbytes(self) -> int:
        """Its size in the file."""
        return math.prod(self.shape) * self.dtype.itemsize
