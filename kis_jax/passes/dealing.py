"""Arrays on their way from a host to the devices of a mesh, and back to every host."""

from __future__ import annotations

import jax
import numpy as np
from jax import Array
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from kis_jax.models.sharding import DATA


def dealt(rows: np.ndarray, mesh: Mesh | None) -> np.ndarray | Array:
    """Rows of the host dealt out over the data axis, with zeros added so that they go up.

    Every host holds all of them, and sends its devices theirs. As they are if there is no mesh.
    """
    if mesh is None:
        return rows
    missing = -len(rows) % mesh.shape[DATA]
    filled = np.pad(rows, ((0, missing), *((0, 0),) * (rows.ndim - 1)))
    sharding = NamedSharding(mesh, PartitionSpec(DATA))
    return jax.make_array_from_callback(filled.shape, sharding, lambda index: filled[index])


def on_every_host(array: Array) -> np.ndarray:
    """The whole of an array as NumPy; a collective where other hosts hold parts of it."""
    if array.is_fully_addressable or array.is_fully_replicated:
        return np.asarray(array)
    return np.asarray(multihost_utils.process_allgather(array, tiled=True))


def gather_rows(part: np.ndarray, rows_of_hosts: list[np.ndarray]) -> np.ndarray:
    """A matrix of which every host has some rows, whole on every host. A collective.

    Float64 passes through devices that may not know it as pairs of 32 bits, some megabytes at a
    time.

    Args:
      part: `(r, d)` float64, this host's rows.
      rows_of_hosts: which rows each host has.

    Returns:
      `(d, d)` float64.
    """
    d = part.shape[1]
    whole = np.empty((d, d))
    if len(rows_of_hosts) == 1:
        whole[rows_of_hosts[0]] = part
        return whole
    step = max(1, 2**26 // (8 * d))
    for start in range(0, max(map(len, rows_of_hosts)), step):
        piece = np.zeros((step, d))
        mine = part[start : start + step]
        piece[: len(mine)] = mine
        found = np.asarray(multihost_utils.process_allgather(piece.view(np.uint32)))
        for rows, of_host in zip(rows_of_hosts, found, strict=True):
            some = rows[start : start + step]
            whole[some] = np.ascontiguousarray(of_host[: len(some)]).view(np.float64)
    return whole
