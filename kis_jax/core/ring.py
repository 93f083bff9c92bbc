"""Superposition of facts that are dealt out over devices: what each holds goes around a ring."""

from __future__ import annotations

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from kis_jax.core.blocked import BlockedWhitener
from kis_jax.core.mesh import DATA, MODEL
from kis_jax.core.moments import Moments
from kis_jax.core.products import inner
from kis_jax.core.tiles import Block, count_slots, make_tile, power_sums, strongest
from kis_jax.core.whitening import Whitener

RING = (DATA, MODEL)  # one ring through all devices
_ROWS = PartitionSpec(RING)


class Found(NamedTuple):
    """What a device finds in its tiles, and in the end all of them together."""

    counts: Array  # below all edges, in each bin, above all edges
    pairs: Array
    values: Array
    moments: Moments


def whitened_rows(
    keys: Array, whitener: Whitener | BlockedWhitener, mesh: Mesh, *, multiple: int = 1
) -> Array:
    """Whitened keys dealt out over all devices, `(n + padding, r)`; the padding is zeros.

    Each device whitens its own; with a factor that lies on all of them they whiten together.

    Args:
      keys: `(n, d)`.
      whitener: of the layer's second moment.
      mesh: of the devices.
      multiple: of which each device is to have one, in rows.
    """
    padding = -len(keys) % (mesh.size * multiple)
    keys = jnp.pad(jnp.asarray(keys), ((0, padding), (0, 0)))
    if isinstance(whitener, BlockedWhitener):
        return jax.device_put(whitener.whiten(keys), NamedSharding(mesh, _ROWS))
    return _whitened(jax.device_put(keys, NamedSharding(mesh, _ROWS)), whitener, mesh)


@functools.partial(jax.jit, static_argnames="mesh")
def _whitened(keys: Array, whitener: Whitener, mesh: Mesh) -> Array:
    return jax.shard_map(
        lambda keys, whitener: whitener.whiten(keys),
        mesh=mesh,
        in_specs=(_ROWS, PartitionSpec()),
        out_specs=_ROWS,
    )(keys, whitener)


@functools.partial(jax.jit, static_argnames=("extended", "mesh"))
def ring_superposition(white: Array, *, extended: bool, mesh: Mesh) -> Array:
    """P of whitened keys that are dealt out, `(n, n)`, its rows dealt out likewise.

    Padding gives rows and columns of no meaning at the end.
    """

    def rows(own: Array) -> Array:
        def step(visiting: Array, _: None) -> tuple[Array, Array]:
            return _from_next(visiting), inner(own, visiting, extended=extended)

        _, products = jax.lax.scan(step, own, length=mesh.size)
        ring = jnp.moveaxis(products, 0, 1).reshape(len(own), -1)
        sizes = jnp.diagonal(products[0])
        return jnp.roll(ring, len(own) * jax.lax.axis_index(RING), axis=1) / sizes[:, None]

    return jax.shard_map(rows, mesh=mesh, in_specs=_ROWS, out_specs=_ROWS)(white)


@functools.partial(jax.jit, static_argnames=("num_facts", "side", "top", "equal", "mesh"))
def ring_tiles(
    white: Array,
    edges: Array,
    groups: Array,
    *,
    num_facts: int,
    side: int,
    top: int,
    equal: bool,
    mesh: Mesh,
) -> Found:
    """What the tiles of P hold, each computed by one device and none of them kept.

    A device meets those that are up to half of the ring ahead of it. Where the ring is even, two
    devices meet twice half-way, and each takes the half of their tiles that the other leaves.

    Args:
      white: whitened keys dealt out, `(n + padding, r)`, a multiple of `side` on each device.
      edges: of the histogram.
      groups: `(n + padding,)` int, dealt out likewise.
      num_facts: n.
      side: of the tiles.
      top: pairs to keep.
      equal: whether the bins are equal.
      mesh: of the devices.

    Returns:
      `Found` over all tiles, the same on every device.
    """

    def over_ring(white: Array, groups: Array, edges: Array) -> Found:
        tiles, me = len(white) // side, jax.lax.axis_index(RING)
        facts = me * len(white) + jnp.arange(len(white), dtype=jnp.int32)
        there = facts < num_facts
        sizes = jnp.where(there, jnp.sum(white * white, axis=1), 1)
        inverse_norms = jnp.where(there, 1 / sizes, 0)
        centre = _mean(white, inverse_norms, num_facts)
        flat = Block(white, inverse_norms, groups, facts)
        own = Block(*(field.reshape(tiles, side, *field.shape[1:]) for field in flat))

        def meet(carry: tuple[Found, Block], distance: Array) -> tuple[tuple[Found, Block], None]:
            found, visiting = carry

            def pair(found: Found, index: Array) -> tuple[Found, None]:
                a, b = index // tiles, index % tiles
                at_home = (distance == 0) & (a <= b)
                mine = (a + b) % 2 == jnp.where(2 * me < mesh.size, 0, 1)
                abroad = (distance > 0) & ((2 * distance != mesh.size) | mine)

                def look(found: Found) -> Found:
                    row = Block(*(field[a] for field in own))
                    column = Block(*(field[b] for field in visiting))
                    tile = make_tile(row, column, (distance == 0) & (a == b), num_facts)
                    counts = count_slots(tile, edges, equal=equal).astype(found.counts.dtype)
                    best = strongest(tile, found.pairs, found.values)
                    moments = found.moments.merge(power_sums(tile, centre))
                    return Found(found.counts + counts, *best, moments)

                return jax.lax.cond(at_home | abroad, look, lambda found: found, found), None

            found, _ = jax.lax.scan(pair, found, jnp.arange(tiles**2, dtype=jnp.int32))
            return (found, jax.tree.map(_from_next, visiting)), None

        wide = jax.dtypes.canonicalize_dtype(jnp.int64)
        nothing = jnp.zeros((), white.dtype)
        empty = Found(
            jnp.zeros(edges.size + 1, wide),
            jnp.full((top, 2), -1, jnp.int32),
            jnp.zeros(top, white.dtype),
            Moments(nothing, nothing, nothing, nothing, nothing),
        )
        (found, _), _ = jax.lax.scan(
            meet, (empty, own), jnp.arange(mesh.size // 2 + 1, dtype=jnp.int32)
        )
        return _of_all(found, centre)

    # The last step gathers, so that all devices hold the same: more than jax can tell.
    return jax.shard_map(
        over_ring,
        mesh=mesh,
        in_specs=(_ROWS, _ROWS, PartitionSpec()),
        out_specs=PartitionSpec(),
        check_vma=False,
    )(white, groups, edges)


def _mean(white: Array, inverse_norms: Array, n: int) -> Array:
    """Mean off-diagonal entry of P to rounding, through the sums of its rows."""
    sums = jnp.sum(white * inverse_norms[:, None], axis=0), jnp.sum(white, axis=0)
    edited, touched = jax.lax.psum(sums, RING)
    return (edited @ touched - n) / (n * (n - 1))


def _of_all(found: Found, centre: Array) -> Found:
    """The findings of all devices in one."""
    top = len(found.values)
    pairs, values, moments = jax.lax.all_gather(
        (found.pairs, found.values, found.moments), RING, axis=0
    )
    pairs, values = pairs.reshape(-1, 2), values.reshape(-1)
    _, best = jax.lax.top_k(jnp.where(pairs[:, 0] >= 0, jnp.abs(values), -1), top)
    whole = moments.merged()
    whole = dataclasses.replace(whole, mean=whole.mean + centre)
    return Found(jax.lax.psum(found.counts, RING), pairs[best], values[best], whole)


def _from_next(array: Array) -> Array:
    """What the next device of the ring holds."""
    devices = jax.lax.axis_size(RING)
    return jax.lax.ppermute(array, RING, [((i + 1) % devices, i) for i in range(devices)])
