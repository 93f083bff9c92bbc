"""Meshes of devices: texts are spread over one axis, features over the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding

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
