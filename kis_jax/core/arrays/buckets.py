"""Called plainly, functions of any number of facts are compiled for a few numbers of them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.core import Tracer

from kis_jax.core.arrays.mesh import layout

_SIZES = (1, 2, 5, 10, 20, 50, 100)


def in_buckets(
    function: Callable[..., Any],
    *arguments: Any,
    rows: int,
    square: bool = False,
    edge: bool = False,
    by_layout: bool = False,
    **options: Any,
) -> Any:
    """`function(*arguments, **options)`, compiled; its rows filled up to one of few numbers.

    A list of facts that grows by one then costs what it computes: each new shape would be another
    program, of a second. Filled up and cut in NumPy, as on a device both are programs too. Nothing
    is filled up under tracing, on a mesh, or beyond a hundred rows.

    Args:
      function: of a module; its results have the rows of the first argument, in all their leaves.
      *arguments: arrays, spaces and the like.
      rows: how many of the arguments, from the first on, are `(n, ...)` arrays or None; each has
        its own n.
      square: whether the columns of results are the rows of the second of them, or of the first.
      edge: filled up by copies of the last row; else by zeros.
      by_layout: whether the function reads how arrays lie on a mesh, which compiled it could not.
      **options: of the function, hashable.
    """
    leaves, named = jax.tree.leaves(arguments), tuple(options.items())
    if by_layout and any(layout(leaf) is not None for leaf in leaves):
        return function(*arguments, **options)
    if any(isinstance(leaf, Tracer) or layout(leaf) is not None for leaf in leaves):
        return _compiled(function, named, *arguments)
    counted, others = arguments[:rows], arguments[rows:]
    counts = [0 if part is None else len(part) for part in counted]
    wanted = [next((size for size in _SIZES if n <= size), n) if n else 0 for n in counts]
    if counts == wanted:
        return _compiled(function, named, *arguments)
    mode: Any = "edge" if edge else "constant"
    filled = [
        part
        if part is None or n == size
        else np.pad(part, ((0, size - n), *((0, 0),) * (part.ndim - 1)), mode)
        for part, n, size in zip(counted, counts, wanted, strict=True)
    ]
    kept = (slice(counts[0]),)
    if square:
        kept += (slice(counts[1] if rows > 1 and counted[1] is not None else counts[0]),)

    def cut(leaf: Array) -> Array:
        part = np.asarray(leaf)[kept]
        return jax.device_put(part, leaf.sharding if leaf.committed else None)

    found = _compiled(function, named, *filled, *others)
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(found)):  # constants of a program
        return _compiled(function, named, *arguments)
    return jax.tree.map(cut, found)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _compiled(function: Callable[..., Any], options: tuple[Any, ...], *arguments: Any) -> Any:
    return function(*arguments, **dict(options))
