"""Meshes of devices: texts are spread over one axis, features over the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

DATA, MODEL = "data", "model"


def make_mesh(
    *, data: int | None = None, model: int = 1, devices: Sequence[Any] | None = None
) -> Mesh:
    """A mesh with axes `data` and `model` over the devices of all hosts.

    Each of `data` groups of devices runs texts of its own; within a group the `model` devices
    share the heads and the hidden layer of the MLP, and so the weights and the second moments. Let
    `model` be as small as memory allows, as its devices talk to one another in every layer.

    Args:
      data: groups; as many as there are devices for if None.
      model: devices of a group.
      devices: that take part; all of every host if None.

    Returns:
      A mesh whose axes leave the layout of intermediate results to the compiler (`AxisType.Auto`).

    Raises:
      ValueError: if `data * model` is not the number of devices.

    Example:
      >>> make_mesh(data=1, model=1, devices=jax.devices()[:1]).shape["model"]
      1
    """
    devices = jax.devices() if devices is None else devices
    groups = len(devices) // max(model, 1) if data is None else data
    if min(groups, model) < 1 or groups * model != len(devices):
        raise ValueError(
            f"data, model: expected numbers whose product is {len(devices)}, the number of "
            f"devices, found data={data}, model={model}; name divisors of it"
        )
    return jax.make_mesh(
        (groups, model), (DATA, MODEL), (AxisType.Auto, AxisType.Auto), devices=devices
    )


def checked_mesh(mesh: Mesh) -> Mesh:
    """The mesh with its axes left to the compiler, whatever kind the user made them.

    Raises:
      ValueError: if its axes are not `data` and `model`.
    """
    if mesh.axis_names != (DATA, MODEL):
        raise ValueError(
            f"mesh: expected the axes {DATA!r} and {MODEL!r}, found {mesh.axis_names}; make it by "
            "kis.make_mesh(model=...)"
        )
    return Mesh(mesh.devices, mesh.axis_names)


def mesh_of(tree: object) -> Mesh | None:
    """The mesh that the arrays of a pytree are spread over; None if they are on one device."""
    for leaf in jax.tree.leaves(tree):
        sharding = getattr(leaf, "sharding", None)
        if isinstance(sharding, NamedSharding) and isinstance(sharding.mesh, Mesh):
            return sharding.mesh
    return None


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
