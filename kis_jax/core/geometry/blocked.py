"""Whitening by a second moment that no device holds: its factor lies on several, by rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import AbstractMesh, Mesh, PartitionSpec
from jax.typing import ArrayLike
from jaxtyping import Float, Int

from kis_jax.core.arrays.checks import as_number, as_rows, holds_or_traced
from kis_jax.core.arrays.lanczos import largest_eigenvalue
from kis_jax.core.arrays.mesh import Axes, axes_of, gathered, layout, size_of, spread
from kis_jax.core.arrays.products import matmul
from kis_jax.core.arrays.pytrees import pytree
from kis_jax.core.geometry.second_moment import SecondMoment
from kis_jax.core.geometry.spaces import Space

_PANEL = 512  # columns factored at once, at most


@pytree
@dataclasses.dataclass(frozen=True, eq=False)
class BlockedWhitener(Space):
    r"""Cholesky's factor of a second moment, its rows dealt out over devices of a mesh.

    It takes the place of a `Whitener` in `superposition`, `summarize` and the edits. Keys may be
    dealt out over the same mesh: over other axes than the factor, each group of devices whitens its
    own; over the same ones, devices lend one another their keys meanwhile.

    Attributes:
      scale: `(d,)`, $C_{ii}^{-1/2}$.
      factor: `(d, d)`, lower-triangular $L$ with $L L^\top$ the scaled C; rows on the devices.
      mesh: of the devices.
      axes: of the mesh, that the rows are dealt out over.
    """

    scale: Array
    factor: Array
    mesh: Mesh | AbstractMesh = dataclasses.field(metadata={"static": True})
    axes: Axes = dataclasses.field(metadata={"static": True})
    name: str = dataclasses.field(default="blocked", metadata={"static": True})

    def coordinates(self, keys: Float[ArrayLike, "n d"]) -> Float[Array, "n d"]:
        """Whitened keys, `(n, d)` to `(n, d)`; their inner products are a C^-1 b."""
        rows = as_rows("keys", keys, self.width).astype(self.factor.dtype)
        return self._solved(_forward, rows * self.scale[None])

    def directions(self, coordinates: Float[Array, "n d"]) -> Float[Array, "n d"]:
        """The rows W z of whitened coordinates z, `(n, d)`; C^-1 k for a whitened k."""
        return self._solved(_backward, coordinates) * self.scale[None]

    @property
    def width(self) -> int:
        """Of the keys, d."""
        return self.scale.shape[-1]

    @property
    def dtype(self) -> Any:
        """Of the factor."""
        return self.factor.dtype

    @property
    def rank(self) -> Int[Array, ""]:
        """Number of directions, `()`: d."""
        return jnp.asarray(self.width, jnp.int32)

    @property
    def condition(self) -> Float[Array, ""]:
        """Condition number in the 2-norm of C plus ridge, `()`; as `Whitener.condition`."""
        return _condition(self)

    def _solved(self, function: Callable[..., Array], goal: Array) -> Array:
        """The rows that solve a system with the factor, laid out as those of the goal are."""
        rows = axes_of(goal)
        if not set(rows) <= set(self.mesh.axis_names):
            raise ValueError(
                f"keys: expected rows over axes of the whitener's mesh, {self.mesh.axis_names}, "
                f"found {rows}; lay both out on one mesh"
            )
        spec, factor = PartitionSpec(rows or None), PartitionSpec(self.axes)
        lent = tuple(name for name in rows if name in self.axes)
        options: dict[str, Any] = {"solve": function, "axes": self.axes, "lent": lent}
        return spread(_by_groups, self.mesh, (factor, spec), spec, self.factor, goal, **options)


def blocked_whitener(
    second_moment: Float[ArrayLike, "d d"] | SecondMoment, *, ridge: float | Float[Array, ""] = 0.0
) -> BlockedWhitener:
    r"""Factors $C + \text{ridge} \cdot I$ by the devices that hold its rows, none of which all.

    Cholesky's factorisation by panels of columns: the device that has a diagonal block hands it to
    all, each solves for its rows of the panel, and takes their products with the whole panel off
    its other columns. Takes `d^3 / devices` operations on each, and as much memory as its rows of
    C twice.

    Args:
      second_moment: C, `(d, d)`, its rows dealt out over any axes of a mesh of anybody's; or a
        `SecondMoment`, whose mean is taken.
      ridge: added to the diagonal.

    Returns:
      A `BlockedWhitener` in the dtype of C, float32 or float64, its rows where those of C are.

    Raises:
      ValueError: if C is not square, its rows are not dealt out over devices, or C is not positive
        definite.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> from jax.sharding import PartitionSpec
      >>> mesh = jax.make_mesh((1,), ("x",), devices=jax.devices()[:1])
      >>> c = jnp.array([[4.0, 0.0], [0.0, 1.0]])
      >>> c = jax.device_put(c, jax.NamedSharding(mesh, PartitionSpec("x")))
      >>> blocked_whitener(c).solve(jnp.array([[2.0, 3.0]]))
      Array([[0.5, 3. ]], dtype=float32)
    """
    c = second_moment.mean if isinstance(second_moment, SecondMoment) else second_moment
    found = layout(c)
    c = jnp.asarray(c)
    if c.ndim != 2 or c.shape[0] != c.shape[1]:
        raise ValueError(f"second_moment: expected shape (d, d), found {c.shape}; use one layer's")
    if found is None or not (axes := axes_of(c)) or found.spec[1]:
        raise ValueError(
            "second_moment: expected its rows, and nothing else, dealt out over a mesh, found "
            f"{'one whose layout is not known' if found is None else found.spec}; place it by "
            'jax.device_put(c, NamedSharding(mesh, PartitionSpec("an axis"))), outside jit unless '
            "the axis is explicit, or use whitener"
        )
    if c.dtype not in (jnp.float32, jnp.float64):
        raise ValueError(f"second_moment: expected float32 or float64, found {c.dtype.name}")
    panel = _panel(c.shape[0] // size_of(found.mesh, axes))
    rows, same = PartitionSpec(axes), PartitionSpec()
    given, results = (c, as_number("ridge", ridge, c.dtype)), (same, rows, same)
    options = {"axes": axes, "panel": panel}
    scale, factor, definite = spread(
        _cholesky_rows, found.mesh, (rows, same), results, *given, **options
    )
    if not holds_or_traced(definite):
        raise ValueError(
            f"second_moment: expected a positive definite matrix, found one that is singular in "
            f"{c.dtype.name}; measure it over more tokens than its {len(c)} dimensions, use "
            "float64, or a positive ridge"
        )
    return BlockedWhitener(scale, factor, found.mesh, axes)


def _panel(held: int) -> int:
    """Columns of a panel: as many as divide the rows of a device."""
    return max(width for width in range(1, min(held, _PANEL) + 1) if held % width == 0)


def _cholesky_rows(
    rows: Array, ridge: Array, *, axes: Axes, panel: int
) -> tuple[Array, Array, Array]:
    """The scale, this device's rows of the factor, and whether all of C is positive definite."""
    held, d = rows.shape
    me = jax.lax.axis_index(axes)
    place = me * held + jnp.arange(held, dtype=jnp.int32)
    own = place[:, None] == jnp.arange(d, dtype=jnp.int32)[None]
    rows = rows + jnp.where(own, ridge, 0).astype(rows.dtype)
    scale = jax.lax.rsqrt(jax.lax.psum(jnp.sum(jnp.where(own, rows, 0), axis=0), axes))
    rows = rows * jax.lax.dynamic_slice_in_dim(scale, me * held, held)[:, None] * scale[None]
    for start in range(0, d, panel):
        stop = start + panel
        owner, offset = divmod(start, held)
        block = rows[offset : offset + panel, start:stop]
        block = jax.lax.psum(jnp.where(me == owner, block, 0), axes)
        corner = jnp.linalg.cholesky(block, symmetrize_input=False)
        solved = jax.lax.linalg.triangular_solve(
            corner, rows[:, start:stop], left_side=False, lower=True, transpose_a=True
        )
        mine = jnp.where(
            place[:, None] >= jnp.arange(start, stop, dtype=jnp.int32)[None], solved, 0
        )
        rows = rows.at[:, start:stop].set(mine)
        if stop < d:
            whole = jax.lax.all_gather(mine, axes, tiled=True)
            rows = rows.at[:, stop:].add(-matmul(mine, whole[stop:].T))
    factor = jnp.where(place[:, None] >= jnp.arange(d, dtype=jnp.int32)[None], rows, 0)
    unsound = jnp.sum(own & ~jnp.isfinite(factor), dtype=jnp.int32)
    return scale, factor, jax.lax.psum(unsound, axes) == 0


def _by_groups(
    rows: Array, goal: Array, *, solve: Callable[..., Array], axes: Axes, lent: Axes
) -> Array:
    """A solve for the goals of all devices that hold the factor together, and then one's own."""
    if not lent:
        return solve(rows, goal, axes)
    own = len(goal)
    found = solve(rows, jax.lax.all_gather(goal, lent, tiled=True), axes)
    return jax.lax.dynamic_slice_in_dim(found, own * jax.lax.axis_index(lent), own)


def _forward(rows: Array, goal: Array, axes: Axes) -> Array:
    """Solves L z = goal for each row of `goal`, `(n, d)`, device after device."""
    held, me, own = _own_block(rows, axes)
    left = jax.lax.dynamic_slice_in_dim(goal, me * held, held, axis=1)

    def step(left: Array, device: Array) -> tuple[Array, Array]:
        found = _solve(own, left, transpose=True)
        found = jax.lax.psum(jnp.where(me == device, found, 0), axes)
        column = jax.lax.dynamic_slice_in_dim(rows, device * held, held, axis=1)
        return left - matmul(found, column.T), found

    devices = jnp.arange(jax.lax.axis_size(axes), dtype=jnp.int32)
    _, parts = jax.lax.scan(step, left, devices)
    return jnp.moveaxis(parts, 0, 1).reshape(goal.shape)


def _backward(rows: Array, goal: Array, axes: Axes) -> Array:
    """Solves L.T x = goal for each row of `goal`, `(n, d)`, from the last device to the first."""
    held, me, own = _own_block(rows, axes)
    # Zeros of the data: within `shard_map` a carry varies over the same axes from its first step.
    mine = jnp.zeros_like(goal[:, :held]) + jnp.zeros_like(own[0])

    def step(mine: Array, device: Array) -> tuple[Array, Array]:
        column = jax.lax.dynamic_slice_in_dim(rows, device * held, held, axis=1)
        known = jax.lax.psum(jnp.where(me > device, matmul(mine, column), 0), axes)
        left = jax.lax.dynamic_slice_in_dim(goal, device * held, held, axis=1) - known
        found = _solve(own, left, transpose=False)
        found = jax.lax.psum(jnp.where(me == device, found, 0), axes)
        return jnp.where(me == device, found, mine), found

    devices = jnp.arange(jax.lax.axis_size(axes), dtype=jnp.int32)
    _, parts = jax.lax.scan(step, mine, devices[::-1])
    return jnp.moveaxis(parts[::-1], 0, 1).reshape(goal.shape)


def _own_block(rows: Array, axes: Axes) -> tuple[int, Array, Array]:
    """How many rows a device has, which device this is, and the block on the diagonal."""
    held, me = len(rows), jax.lax.axis_index(axes)
    return held, me, jax.lax.dynamic_slice_in_dim(rows, me * held, held, axis=1)


def _solve(lower: Array, rows: Array, *, transpose: bool) -> Array:
    """Solves x L.T = rows, or x L = rows."""
    return jax.lax.linalg.triangular_solve(
        lower, rows, left_side=False, lower=True, transpose_a=transpose
    )


@jax.jit
def _condition(whitener: BlockedWhitener) -> Array:
    rows, same = PartitionSpec(whitener.axes), PartitionSpec()

    def second_moment(vector: Array) -> Array:
        given = whitener.factor, vector / whitener.scale
        image = spread(_times, whitener.mesh, (rows, same), same, *given, axes=whitener.axes)
        return image / whitener.scale

    def inverse(vector: Array) -> Array:
        return whitener.solve(vector[None])[0]

    d, dtype = whitener.width, whitener.factor.dtype
    return largest_eigenvalue(second_moment, d, dtype) * largest_eigenvalue(inverse, d, dtype)


def _times(rows: Array, vector: Array, axes: Axes) -> Array:
    """L L.T times a vector."""
    own = jax.lax.dynamic_slice_in_dim(vector, len(rows) * jax.lax.axis_index(axes), len(rows))
    between = jax.lax.psum(matmul(own, rows), axes)
    return gathered(matmul(rows, between), axes).reshape(-1)
