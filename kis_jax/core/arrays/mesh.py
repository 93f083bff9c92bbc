"""Arrays that are dealt out over a mesh of devices, anybody's: how they lie is read off them."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any

import jax
from jax import Array
from jax.core import Tracer
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

Axes = tuple[str, ...]


def layout(array: object) -> NamedSharding | None:
    """How an array is dealt out over a mesh; None if it is not, or if nobody can tell.

    An array in hand says where it lies. Under tracing, its type does along axes that are explicit
    (`AxisType.Explicit`). Along others the compiler decides, and within `shard_map` there is
    nothing left to say: both are no layout.

    Returns:
      A sharding whose spec has an entry for each dimension.
    """
    if not isinstance(array, jax.Array):
        return None
    sharding = jax.typeof(array).sharding if isinstance(array, Tracer) else array.sharding
    if not isinstance(sharding, NamedSharding):
        return None
    spec = [_names(entry) or None for entry in sharding.spec]
    spec += [None] * (array.ndim - len(spec))
    return NamedSharding(sharding.mesh, PartitionSpec(*spec)) if any(spec) else None


def _names(entry: object) -> Axes:
    """The axes that an entry of a spec names."""
    return tuple(n for n in (entry if isinstance(entry, tuple) else (entry,)) if isinstance(n, str))


def axes_of(array: object, dimension: int = 0) -> Axes:
    """The mesh axes that a dimension of an array is dealt out over: the rows, unless told."""
    found = layout(array)
    return () if found is None else _names(found.spec[dimension])


def size_of(mesh: Mesh | AbstractMesh, axes: Axes) -> int:
    """Devices along some axes of a mesh."""
    return math.prod(mesh.shape[name] for name in axes)


def by_rows(function: Callable[..., Any], rows: Any, *others: Any, **options: Any) -> Any:
    """`function(rows, *others, **options)`, in which each row has nothing to do with the others.

    Each device computes those that it holds, if they are dealt out.

    Args:
      function: of a module, as what it compiles to is kept for it; its results have these rows.
      rows: `(n, ...)`, or a pytree of such, all laid out as the first is.
      others: arrays that every row needs, and options that are not arrays.
      options: of the function, hashable.
    """
    first = jax.tree.leaves(rows)[0]
    found = layout(first)
    if found is None:
        return function(rows, *others, **options)
    spec = PartitionSpec(axes_of(first) or None)
    specs = (spec, *(PartitionSpec() for _ in others))
    return spread(function, found.mesh, specs, spec, rows, *others, **options)


def spread(
    function: Callable[..., Any],
    mesh: Mesh | AbstractMesh,
    in_specs: tuple[PartitionSpec, ...],
    out_specs: Any,
    *arguments: Any,
    **options: Any,
) -> Any:
    """`function(*arguments, **options)` by all devices of a mesh, as by `jax.shard_map`.

    Compiled once for each function, layout and options; arguments that lie otherwise are moved.
    """
    return _spread(function, mesh, in_specs, out_specs, tuple(options.items()), *arguments)


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3, 4))
def _spread(
    function: Callable[..., Any],
    mesh: Mesh | AbstractMesh,
    in_specs: tuple[PartitionSpec, ...],
    out_specs: Any,
    options: tuple[tuple[str, Any], ...],
    *arguments: Any,
) -> Any:
    kinds = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
    explicit = {name for name, kind in kinds.items() if kind == AxisType.Explicit}
    if explicit:  # nothing is moved in silence along these
        moved = zip(arguments, in_specs, strict=True)
        arguments = tuple(
            jax.tree.map(functools.partial(_moved, mesh=mesh, spec=spec, explicit=explicit), part)
            for part, spec in moved
        )
    return jax.shard_map(
        functools.partial(function, **dict(options)),
        mesh=mesh,
        in_specs=in_specs,
        out_specs=out_specs,
        axis_names={name for name, kind in kinds.items() if kind != AxisType.Manual},
    )(*arguments)


def _moved(
    array: Array, mesh: Mesh | AbstractMesh, spec: PartitionSpec, explicit: set[str]
) -> Array:
    """An array laid out by a spec, as far as its axes are explicit."""
    entries = [tuple(name for name in _names(entry) if name in explicit) or None for entry in spec]
    return jax.sharding.reshard(array, NamedSharding(mesh, PartitionSpec(*entries)))


def whole(array: Array) -> Array:
    """The array with all of it on each device of its mesh, if it was dealt out."""
    if (found := layout(array)) is None:
        return array
    return _laid(array, NamedSharding(found.mesh, PartitionSpec()))


def rows_whole(array: Array) -> Array:
    """The array with all of its rows on each device along explicit axes; columns stay."""
    found = layout(array)
    if found is None or found.spec[0] is None:
        return array
    return _laid(array, NamedSharding(found.mesh, PartitionSpec(None, *found.spec[1:])))


def rows_as(array: Array, other: Array) -> Array:
    """The array with its rows dealt out as those of another along explicit axes."""
    found = layout(other)
    if found is None or found.spec[0] is None:
        return array
    rest = [axes_of(array, place) or None for place in range(1, array.ndim)]
    return _laid(array, NamedSharding(found.mesh, PartitionSpec(found.spec[0], *rest)))


def _laid(array: Array, sharding: NamedSharding) -> Array:
    place = jax.sharding.reshard if isinstance(array, Tracer) else jax.device_put
    return place(array, sharding)


def diagonal(square: Array, axis_name: str | Axes | None = None) -> Array:
    """The diagonal of a square matrix, `(n,)`, dealt out as its rows are.

    Within `shard_map` the rows of this device, by the axes that they are dealt out over.
    """
    found = layout(square)
    if found is not None:
        rows = PartitionSpec(axes_of(square) or None)
        return spread(diagonal, found.mesh, (rows,), rows, square, axis_name=axes_of(square))
    if not axis_name:
        return square.diagonal()
    start = jax.lax.axis_index(axis_name) * len(square)
    return jax.lax.dynamic_slice_in_dim(square, start, len(square), axis=1).diagonal()


def from_next(array: Array, axis_name: str | Axes, distance: int = 1) -> Array:
    """What the device so far ahead in the ring through these axes holds; within `shard_map`."""
    axes = (axis_name,) if isinstance(axis_name, str) else axis_name
    # `ppermute` counts devices in the order of the mesh's axes, whatever the order of the names.
    names = [name for name in jax.sharding.get_abstract_mesh().axis_names if name in axes] or axes
    steps: dict[str, range] = {}
    stride = 1
    for name in reversed(names):
        steps[name] = range(0, stride * jax.lax.axis_size(name), stride)
        stride *= len(steps[name])
    ring = [sum(place) for place in itertools.product(*(steps[name] for name in axes))]
    ahead = ring[distance % len(ring) :] + ring[: distance % len(ring)]
    return jax.lax.ppermute(array, axes, list(zip(ahead, ring, strict=True)))


def gathered(array: Array, axis_name: str | Axes) -> Array:
    """What all devices along these axes hold, stacked, `(devices, ...)`; within `shard_map`.

    A sum with zeros, as `all_gather` does not tell the types that all devices now hold the same.
    """
    place = jax.lax.broadcasted_iota("int32", (jax.lax.axis_size(axis_name),), 0)
    mine = (place == jax.lax.axis_index(axis_name)).reshape(-1, *[1] * array.ndim)
    return jax.lax.psum(jax.numpy.where(mine, array, jax.numpy.zeros_like(array)), axis_name)
