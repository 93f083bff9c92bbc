"""Whitening by a second moment that no device holds: its factor lies on all of them, by rows."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import ArrayLike

from kis_jax.core.checks import as_rows, holds_or_traced
from kis_jax.core.mesh import DATA, MODEL
from kis_jax.core.products import matmul

_ALL = (DATA, MODEL)
_ROWS = PartitionSpec(_ALL, None)
_PANEL = 512  # columns factored at once, at most


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class BlockedWhitener:
    r"""Cholesky's factor of a second moment, its rows dealt out over all devices of a mesh.

    It takes the place of a `Whitener` in `superposition`, `summarize` and the edits.

    Attributes:
      scale: `(d,)`, $C_{ii}^{-1/2}$.
      factor: `(d, d)`, lower-triangular $L$ with $L L^\top$ the scaled C; rows on the devices.
      mesh: of the devices.
    """

    scale: Array
    factor: Array
    mesh: Mesh = dataclasses.field(metadata={"static": True})

    def whiten(self, keys: ArrayLike) -> Array:
        """Whitened coordinates of keys, `(n, d)` to `(n, d)`; inner products are a C^-1 b."""
        rows = as_rows("keys", keys, self.width).astype(self.factor.dtype)
        return _forward(self.factor, rows * self.scale, mesh=self.mesh)

    def directions(self, white: Array) -> Array:
        """The rows W z of whitened coordinates z, `(n, d)`; C^-1 k for a whitened k."""
        return _backward(self.factor, white, mesh=self.mesh) * self.scale

    def solve(self, keys: ArrayLike) -> Array:
        """The directions of edits: rows $C^{-1} k$, `(n, d)` to `(n, d)`."""
        return self.directions(self.whiten(keys))

    @property
    def extended(self) -> bool:
        """Whether inner products deserve more digits: no."""
        return False

    @property
    def width(self) -> int:
        """Of the keys, d."""
        return self.scale.shape[-1]


def blocked_whitener(
    second_moment: ArrayLike, mesh: Mesh, *, ridge: float = 0.0
) -> BlockedWhitener:
    r"""Factors $C + \text{ridge} \cdot I$ by all devices of a mesh, none of which holds it whole.

    Cholesky's factorisation by panels of columns: the device that has a diagonal block hands it to
    all, each solves for its rows of the panel, and takes their products with the whole panel off
    its other columns. Takes `d^3 / devices` operations on each, and as much memory as its rows of
    C twice.

    Args:
      second_moment: C, `(d, d)`; on a mesh its rows are best dealt out over both axes.
      mesh: with axes `data` and `model`.
      ridge: added to the diagonal.

    Returns:
      A `BlockedWhitener` in the dtype of C, float32 or float64.

    Raises:
      ValueError: if C is not square, d does not go up over the devices, or C is not positive
        definite.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from kis_jax.core.mesh import make_mesh
      >>> mesh = make_mesh(devices=jax.devices()[:1])
      >>> blocked_whitener(jnp.array([[4.0, 0.0], [0.0, 1.0]]), mesh).solve(jnp.array([[2.0, 3.0]]))
      Array([[0.5, 3. ]], dtype=float32)
    """
    c = jnp.asarray(second_moment)
    if c.ndim != 2 or c.shape[0] != c.shape[1] or c.shape[0] % mesh.size:
        raise ValueError(
            f"second_moment: expected shape (d, d) with d a multiple of the {mesh.size} devices, "
            f"found {c.shape}; use a mesh of fewer devices, or whitener"
        )
    if c.dtype not in (jnp.float32, jnp.float64):
        raise ValueError(f"second_moment: expected float32 or float64, found {c.dtype.name}")
    c = jax.device_put(c, NamedSharding(mesh, _ROWS))
    scale, factor = _factored(c, jnp.asarray(ridge, c.dtype), mesh=mesh)
    if not holds_or_traced(jnp.all(jnp.isfinite(jnp.diagonal(factor)))):
        raise ValueError(
            f"second_moment: expected a positive definite matrix, found one that is singular in "
            f"{c.dtype.name}; measure it over more tokens than its {len(c)} dimensions, use "
            "float64, or a positive ridge"
        )
    return BlockedWhitener(scale, factor, mesh)


@functools.partial(jax.jit, static_argnames="mesh")
def _factored(c: Array, ridge: Array, *, mesh: Mesh) -> tuple[Array, Array]:
    diagonal = jnp.diagonal(c) + ridge
    scale = jax.lax.rsqrt(diagonal)
    held = len(c) // mesh.size
    panel = max(width for width in range(1, min(held, _PANEL) + 1) if held % width == 0)
    factor = jax.shard_map(
        functools.partial(_cholesky_rows, panel=panel),
        mesh=mesh,
        in_specs=(_ROWS, PartitionSpec(), PartitionSpec()),
        out_specs=_ROWS,
    )(c, scale, ridge)
    return scale, factor


def _cholesky_rows(rows: Array, scale: Array, ridge: Array, *, panel: int) -> Array:
    """This device's rows of the factor, from its rows of C."""
    held, d = rows.shape
    me = jax.lax.axis_index(_ALL)
    place = me * held + jnp.arange(held, dtype=jnp.int32)
    rows = rows + jnp.where(place[:, None] == jnp.arange(d, dtype=jnp.int32), ridge, 0).astype(
        rows.dtype
    )
    rows = rows * jax.lax.dynamic_slice_in_dim(scale, me * held, held)[:, None] * scale
    for start in range(0, d, panel):
        stop = start + panel
        owner, offset = divmod(start, held)
        block = rows[offset : offset + panel, start:stop]
        block = jax.lax.psum(jnp.where(me == owner, block, 0), _ALL)
        corner = jnp.linalg.cholesky(block, symmetrize_input=False)
        solved = jax.lax.linalg.triangular_solve(
            corner, rows[:, start:stop], left_side=False, lower=True, transpose_a=True
        )
        mine = jnp.where(place[:, None] >= jnp.arange(start, stop, dtype=jnp.int32), solved, 0)
        rows = rows.at[:, start:stop].set(mine)
        if stop < d:
            whole = jax.lax.all_gather(mine, _ALL, tiled=True)
            rows = rows.at[:, stop:].add(-matmul(mine, whole[stop:].T))
    return jnp.where(place[:, None] >= jnp.arange(d, dtype=jnp.int32), rows, 0)


@functools.partial(jax.jit, static_argnames="mesh")
def _forward(factor: Array, goal: Array, *, mesh: Mesh) -> Array:
    """Solves L z = goal for each row of `goal`, `(n, d)`, device after device."""

    def solve(rows: Array, goal: Array) -> Array:
        held, me, own = _own_block(rows)
        left = jax.lax.dynamic_slice_in_dim(goal, me * held, held, axis=1)

        def step(left: Array, device: Array) -> tuple[Array, Array]:
            found = _solve(own, left, transpose=True)
            found = jax.lax.psum(jnp.where(me == device, found, 0), _ALL)
            column = jax.lax.dynamic_slice_in_dim(rows, device * held, held, axis=1)
            return left - matmul(found, column.T), found

        _, parts = jax.lax.scan(step, left, jnp.arange(mesh.size, dtype=jnp.int32))
        return jnp.moveaxis(parts, 0, 1).reshape(goal.shape)

    return jax.shard_map(
        solve, mesh=mesh, in_specs=(_ROWS, PartitionSpec()), out_specs=PartitionSpec()
    )(factor, goal)


@functools.partial(jax.jit, static_argnames="mesh")
def _backward(factor: Array, goal: Array, *, mesh: Mesh) -> Array:
    """Solves L.T x = goal for each row of `goal`, `(n, d)`, from the last device to the first."""

    def solve(rows: Array, goal: Array) -> Array:
        held, me, own = _own_block(rows)
        mine = jax.lax.pcast(jnp.zeros((len(goal), held), goal.dtype), _ALL, to="varying")

        def step(mine: Array, device: Array) -> tuple[Array, Array]:
            column = jax.lax.dynamic_slice_in_dim(rows, device * held, held, axis=1)
            known = jax.lax.psum(jnp.where(me > device, matmul(mine, column), 0), _ALL)
            left = jax.lax.dynamic_slice_in_dim(goal, device * held, held, axis=1) - known
            found = _solve(own, left, transpose=False)
            found = jax.lax.psum(jnp.where(me == device, found, 0), _ALL)
            return jnp.where(me == device, found, mine), found

        _, parts = jax.lax.scan(step, mine, jnp.arange(mesh.size, dtype=jnp.int32)[::-1])
        return jnp.moveaxis(parts[::-1], 0, 1).reshape(goal.shape)

    return jax.shard_map(
        solve, mesh=mesh, in_specs=(_ROWS, PartitionSpec()), out_specs=PartitionSpec()
    )(factor, goal)


def _own_block(rows: Array) -> tuple[int, Array, Array]:
    """How many rows a device has, which device this is, and the block on the diagonal."""
    held, me = len(rows), jax.lax.axis_index(_ALL)
    return held, me, jax.lax.dynamic_slice_in_dim(rows, me * held, held, axis=1)


def _solve(lower: Array, rows: Array, *, transpose: bool) -> Array:
    """Solves x L.T = rows, or x L = rows."""
    return jax.lax.linalg.triangular_solve(
        lower, rows, left_side=False, lower=True, transpose_a=transpose
    )
