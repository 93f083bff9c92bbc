"""A parameter in the parts that this host's devices hold, filled from the tensors of a file."""

from __future__ import annotations

import jax
import numpy as np
from jax.sharding import NamedSharding

from kis_jax.checkpoints.mapped import Shape, StoredTensor
from kis_jax.checkpoints.pieces import empty, read_into
from kis_jax.checkpoints.table import Entry

Index = tuple[slice, ...]


class Parts:
    """A parameter on its way from files to devices.

    Memory is asked for once for each different part, however many devices hold it.
    """

    def __init__(self, shape: Shape, dtype: np.dtype, sharding: NamedSharding | None) -> None:
        """Makes room for the parts.

        Args:
          shape: of the whole parameter.
          dtype: that it is to have.
          sharding: over which devices it lies, and how; None for the default device.
        """
        self._shape, self._sharding = shape, sharding
        indices = [_bounds((slice(None),) * len(shape), shape)]
        if sharding is not None:
            held = sharding.addressable_devices_indices_map(shape).values()
            indices = list(dict.fromkeys(_bounds(index or (), shape) for index in held))
        self._parts = {
            bounds: empty(tuple(stop - start for start, stop in bounds), dtype)
            for bounds in indices
        }

    def read(self, entry: Entry, tensor: StoredTensor) -> None:
        """Fills what one tensor has of these parts, and reads no other bytes of it.

        Raises:
          ValueError: if a number is not finite.
        """
        for bounds, part in self._parts.items():
            index = tuple(slice(*ends) for ends in bounds)
            # Layers and experts lie on the first axes, which no sharding cuts.
            index, target = index[len(entry.place) :], part[entry.place]
            read_into(target, entry.source, tensor, entry.layout, index)

    def on_devices(self) -> jax.Array:
        """The parameter; on a CPU jax takes the memory over, elsewhere it is the host's again."""
        if self._sharding is None:
            (whole,) = self._parts.values()
            return jax.block_until_ready(jax.device_put(whole))
        return jax.block_until_ready(
            jax.make_array_from_callback(
                self._shape,
                self._sharding,
                lambda index: self._parts[_bounds(index or (), self._shape)],
            )
        )


def _bounds(index: Index, shape: Shape) -> tuple[tuple[int, int], ...]:
    """First and last place, one beyond, on each axis: what slices mean, and can be looked up."""
    full = (*index, *(slice(None),) * (len(shape) - len(index)))
    return tuple(part.indices(size)[:2] for part, size in zip(full, shape, strict=True))
