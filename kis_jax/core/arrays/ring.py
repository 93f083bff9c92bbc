"""Summary of facts that are dealt out over devices: what each holds goes around a ring."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from kis_jax.core.arrays.mesh import Axes, from_next, gathered
from kis_jax.core.geometry.tiles import Block, Found, blocks_of, look, nothing_found, strongest_of
from kis_jax.core.statistics.moments import Moments


def ring_tiles(
    white: Array,
    edges: Array,
    groups: Array | None,
    where: Array | None,
    *,
    axis_name: str | Axes,
    tile: int,
    top: int,
    equal: bool,
) -> tuple[Found, Moments]:
    """What the tiles of P hold, each computed by one device and none of them kept.

    It runs within `shard_map`. A device meets the facts of those that are up to half of the ring
    ahead of it. Where the ring is even, two devices meet twice half-way, and each takes the half of
    their tiles that the other leaves.

    Args:
      white: this device's whitened keys, `(n / m, r)`.
      edges: of the histogram, the same on every device.
      groups: of its facts, `(n / m,)` int.
      where: which of them count, `(n / m,)` bool.
      axis_name: of the mesh axes of m devices that the facts are dealt out over.
      tile: facts along the side of a tile, at most.
      top: pairs to keep.
      equal: whether the bins are equal.

    Returns:
      What was found in all tiles and the moments of their entries, the same on every device.
    """
    devices, me = jax.lax.axis_size(axis_name), jax.lax.axis_index(axis_name)
    tiles = -(-len(white) // tile)
    side = -(-len(white) // tiles)
    side += -side % 8 if tile >= 8 else 0
    own, centre = blocks_of(white, groups, where, tiling=(tiles, side), axis_name=axis_name)

    def meet(carry: tuple[Found, Block], distance: Array) -> tuple[tuple[Found, Block], Moments]:
        found, visiting = carry

        def pair(found: Found, index: Array) -> tuple[Found, Moments]:
            a, b = index // tiles, index % tiles
            at_home = (distance == 0) & (a <= b)
            mine = (a + b) % 2 == jnp.where(2 * me < devices, 0, 1)
            abroad = (distance > 0) & ((2 * distance != devices) | mine)
            row, column = (
                jax.tree.map(lambda f, i=i: f[i], x) for x, i in ((own, a), (visiting, b))
            )
            diagonal = (distance == 0) & (a == b)
            none = jnp.zeros_like(white[0, 0])
            return jax.lax.cond(
                at_home | abroad,
                lambda found: look(found, row, column, diagonal, edges, centre, equal=equal),
                lambda found: (found, Moments(none, none, none, none, none)),
                found,
            )

        found, parts = jax.lax.scan(pair, found, jnp.arange(tiles**2, dtype=jnp.int32))
        return (found, jax.tree.map(lambda x: from_next(x, axis_name), visiting)), parts.merged()

    start = nothing_found(own, edges, top)
    distances = jnp.arange(devices // 2 + 1, dtype=jnp.int32)
    (found, _), parts = jax.lax.scan(meet, (start, own), distances)
    counts = jax.lax.psum(found.counts, axis_name)
    pairs, values, moments = jax.tree.map(
        lambda x: gathered(x, axis_name), (found.pairs, found.values, parts.merged())
    )
    best = strongest_of(pairs.reshape(-1, 2), values.reshape(-1), top)
    return Found(counts, *best), moments.merged().moved(centre)
