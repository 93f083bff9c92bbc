"""How a model is laid out over a mesh, of whose axes texts take one and features the other."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from kis_jax.models.config import ModelConfig

DATA, MODEL = "data", "model"

# A pattern of a parameter's path; its axis that is cut; and what must go up evenly over the devices
# of the model axis for that. The first row that fits and goes up is taken; what fits none is kept
# whole on every device: norms, and biases that are added once to a sum over devices. Parameters of
# layers are stacked, their axis 0 is that of the layers. A matrix that reads the stream is cut by
# its columns and the one that writes it back by its rows, so that a layer needs two sums over
# devices, one after attention and one after the MLP.
PLAN = (
    (r"embedding\.embedding", 0, "vocab_size"),
    (r"embedding\.embedding", 1, "width"),
    (r"head\.kernel", 1, "vocab_size"),
    (r"head\.bias", 0, "vocab_size"),
    (r"blocks\.attention\.query\.kernel", 2, "num_heads"),
    (r"blocks\.attention\.query\.bias", 1, "num_heads"),
    (r"blocks\.attention\.(key|value)\.kernel", 2, "num_kv_heads"),
    (r"blocks\.attention\.(key|value)\.bias", 1, "num_kv_heads"),
    (r"blocks\.attention\.output\.kernel", 1, "num_heads"),
    (r"blocks\.mlp\.(input|gate)\.kernel", 2, "mlp_width"),
    (r"blocks\.mlp\.(input|gate)\.bias", 1, "mlp_width"),
    (r"blocks\.mlp\.output\.kernel", 1, "mlp_width"),
)


def partition(path: str, config: ModelConfig, mesh: Mesh) -> PartitionSpec:
    """Where the parts of a parameter lie.

    Args:
      path: of the parameter, such as `blocks.mlp.output.kernel`.
      config: of the model.
      mesh: with axes `data` and `model`.

    Examples:
      >>> import jax
      >>> from kis_jax.models.sharding import make_mesh
      >>> from kis_jax.models.families import gpt2
      >>> mesh = make_mesh(devices=jax.devices()[:1])
      >>> partition("blocks.mlp.output.kernel", gpt2.read_config({}), mesh)
      P(None, 'model')
    """
    devices = mesh.shape[MODEL]
    for pattern, axis, unit in PLAN:
        if re.fullmatch(pattern, path) and getattr(config, unit) % devices == 0:
            return PartitionSpec(*(None,) * axis, MODEL)
    return PartitionSpec()


def partitions(paths: Iterable[str], config: ModelConfig, mesh: Mesh) -> dict[str, PartitionSpec]:
    """Where the parts of all parameters lie, by their paths.

    Raises:
      ValueError: if keys do not go up over the devices of the model axis.
    """
    devices = mesh.shape[MODEL]
    if config.experts is not None:
        raise ValueError(
            "mesh: expected a model with one MLP a layer, found a mixture of experts, which runs "
            "on one device; leave the mesh out"
        )
    if config.mlp_width % devices:
        raise ValueError(
            f"mesh: expected a model axis that divides {config.mlp_width}, the width of the keys, "
            f"found one of {devices} devices; choose a divisor"
        )
    return {path: partition(path, config, mesh) for path in paths}


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

    Examples:
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
