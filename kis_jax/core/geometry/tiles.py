"""One tile of a superposition matrix with its mirror image: its counts, sums, strongest pairs."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from kis_jax.core.arrays.mesh import Axes
from kis_jax.core.arrays.products import inner
from kis_jax.core.statistics.moments import Moments, from_power_sums

_SLICES = 8
_NO_FACT = jnp.iinfo(jnp.int32).max  # the number of what fills a block up, or does not count


class Block(NamedTuple):
    """Facts along one side of a tile: `(side, r)` whitened keys and the rest `(side,)`."""

    white: Array
    inverse_norms: Array  # of the whitened keys, squared
    groups: Array
    facts: Array  # their numbers


class Found(NamedTuple):
    """What a pass over tiles carries along."""

    counts: Array  # below all edges, in each bin, above all edges
    pairs: Array
    values: Array


class Tile(NamedTuple):
    """Inner products of the facts of two blocks, `(rows, columns)`, and which of them count."""

    products: Array
    row: Block
    column: Block
    limits: Array  # `(columns,)`: of each column, the facts below its limit count
    number: Array  # of pairs that count

    @property
    def by_row(self) -> Array:
        """Entries of P where the facts of the rows are edited."""
        return self.products * self.row.inverse_norms[:, None]

    @property
    def by_column(self) -> Array:
        """Entries of P where the facts of the columns are edited, as [touched, edited]."""
        return self.products * self.column.inverse_norms[None]

    @property
    def counted(self) -> Array:
        """Which pairs count."""
        return self.row.facts[:, None] < self.limits[None]

    @property
    def strengths(self) -> Array:
        """The greater of both entries of a pair in absolute value; -1 within a group."""
        different = self.counted & (self.row.groups[:, None] != self.column.groups[None])
        scale = jnp.maximum(self.row.inverse_norms[:, None], self.column.inverse_norms[None])
        return jnp.where(different, jnp.abs(self.products) * scale, -1)

    def slices(self) -> list[Tile]:
        """Slices of some columns each, all of one shape.

        Summed entry by entry, or compared, they leave little to be reduced. That is work which
        every backend vectorises and spreads over its cores; a reduction of the tile is not.
        """
        count = math.gcd(len(self.limits), _SLICES)
        columns = zip(*(jnp.split(field, count) for field in self.column), strict=True)
        return [
            Tile(products, self.row, Block(*column), limits, self.number)
            for products, column, limits in zip(
                jnp.split(self.products, count, axis=1),
                columns,
                jnp.split(self.limits, count),
                strict=True,
            )
        ]


def blocks_of(
    white: Array,
    groups: Array | None,
    where: Array | None,
    *,
    tiling: tuple[int, int],
    axis_name: str | Axes = (),
) -> tuple[Block, Array]:
    """Facts cut into blocks, `(tiles, side, ...)`, and the mean off-diagonal entry of P.

    Args:
      white: whitened keys, `(n, r)`; within `shard_map` those of this device.
      groups: `(n,)` int; each fact is one of its own if None.
      where: `(n,)` bool, the facts that count; all if None.
      tiling: the number of tiles and their side.
      axis_name: within `shard_map`, the mesh axes that the facts are dealt out over.
    """
    total = (lambda x: jax.lax.psum(x, axis_name)) if axis_name else lambda x: x
    n, (tiles, side) = len(white), tiling
    facts = jnp.arange(n, dtype=jnp.int32)
    if axis_name:
        facts += n * jax.lax.axis_index(axis_name)
    there = facts >= 0 if where is None else where
    inverse_norms = jnp.where(there, 1 / jnp.where(there, jnp.sum(white * white, axis=-1), 1), 0)
    # To rounding, through the sums of the rows of P.
    edited = total(jnp.sum(white * inverse_norms[:, None], axis=0))
    m = total(jnp.sum(there, dtype=jnp.int32)).astype(white.dtype)
    mean = (edited @ total(jnp.sum(white, axis=0)) - m) / jnp.maximum(m * (m - 1), 1)
    flat = Block(
        white,
        inverse_norms,
        facts if groups is None else groups,
        jnp.where(there, facts, _NO_FACT),
    )
    padding = tiles * side - n
    filling = Block(0, 0, 0, _NO_FACT)  # pyright: ignore[reportArgumentType]

    def cut(field: Array, filled: int) -> Array:
        widths = ((0, padding), *[(0, 0)] * (field.ndim - 1))
        padded = jnp.pad(field, widths, constant_values=filled)
        return padded.reshape(tiles, side, *field.shape[1:])

    return jax.tree.map(cut, flat, filling), mean


def nothing_found(blocks: Block, edges: Array, top: int) -> Found:
    """What a pass starts with.

    Zeros of the data: within `shard_map` a carry varies over the same axes from its first step.
    """
    some = (blocks.white[0, 0, 0], blocks.groups[0, 0], blocks.facts[0, 0], edges[0])
    zero = functools.reduce(jnp.add, [jnp.zeros_like(x, jnp.int32) for x in some])
    counts = jax.dtypes.canonicalize_dtype(jnp.int64)
    return Found(
        jnp.broadcast_to(zero.astype(counts), (edges.size + 1,)),
        jnp.broadcast_to(zero - 1, (top, 2)),
        jnp.broadcast_to(zero.astype(blocks.white.dtype), (top,)),
    )


def look(
    found: Found,
    row: Block,
    column: Block,
    diagonal: Array,
    edges: Array,
    centre: Array,
    *,
    equal: bool,
) -> tuple[Found, Moments]:
    """What was found with that of one more tile, and the moments of its entries about a centre."""
    tile = make_tile(row, column, diagonal)
    counts = count_slots(tile, edges, equal=equal).astype(found.counts.dtype)
    best = strongest(tile, found.pairs, found.values)
    return Found(found.counts + counts, *best), power_sums(tile, centre)


def make_tile(row: Block, column: Block, diagonal: Array) -> Tile:
    """The tile of two blocks; on the diagonal, each pair counts once."""
    limits = jnp.where(diagonal, column.facts, _NO_FACT)
    limits = jnp.where(column.facts < _NO_FACT, limits, 0)
    rows, columns = (jnp.sum(b.facts < _NO_FACT, dtype=jnp.int32) for b in (row, column))
    count = jnp.where(diagonal, columns * (columns - 1) // 2, rows * columns)
    return Tile(inner(row.white, column.white), row, column, limits, count)


def power_sums(tile: Tile, centre: Array) -> Moments:
    """Moments of both orders of the pairs of a tile, about a centre; their mean is relative to it.

    In one pass: as the centre is near the mean of all entries, nothing cancels that matters.
    """
    slices = tile.slices()

    def lanes(power: Callable[[Array], Array]) -> Array:
        both = (power(part.by_row - centre) + power(part.by_column - centre) for part in slices)
        counted = (jnp.where(part.counted, s, 0) for part, s in zip(slices, both, strict=True))
        return functools.reduce(jnp.add, counted)

    sums = (
        lanes(lambda e: e),
        lanes(lambda e: e * e),
        lanes(lambda e: e * e * e),
        lanes(lambda e: (e * e) * (e * e)),
    )
    # Fused into what follows, the slices would be added one entry after another.
    sums = jax.lax.optimization_barrier(sums)
    count = (2 * tile.number).astype(centre.dtype)
    return from_power_sums(count, [jnp.sum(part) for part in sums])


def count_slots(tile: Tile, edges: Array, *, equal: bool) -> Array:
    """How many entries lie below all edges, between each two, and above all, `(edges + 1,)` int.

    The last bin holds its right edge; NaN counts as below.
    """
    bins = edges.size - 1
    counts = jnp.zeros(bins + 2, jnp.int32)
    for entries in (tile.by_row, tile.by_column):
        if equal:
            place = (entries - edges[0]) * (bins / (edges[-1] - edges[0])) + 1
            slot = jnp.clip(place, 0, bins).astype(jnp.int32)
        else:
            slot = jnp.searchsorted(edges, entries, side="right", method="scan_unrolled")
            slot = jnp.minimum(slot.astype(jnp.int32), bins)
        slot = jnp.where(entries > edges[-1], bins + 1, slot)
        slot = jnp.where(tile.counted, slot, bins + 2)
        counts = counts.at[slot.reshape(-1)].add(1, mode="drop")
    return counts


def strongest(tile: Tile, pairs: Array, values: Array) -> tuple[Array, Array]:
    """The strongest pairs among those of a tile and those found before, `(top, 2)` and `(top,)`.

    The k strongest entries lie within the k lanes whose maxima are the greatest.
    """
    top, columns = len(values), len(tile.limits)
    maxima = functools.reduce(jnp.maximum, [part.strengths for part in tile.slices()])
    width = maxima.shape[1]
    _, lane = jax.lax.top_k(maxima.reshape(-1), min(top, maxima.size))
    i = jnp.repeat(lane // width, columns // width)
    j = (lane[:, None] % width + jnp.arange(0, columns, width, dtype=lane.dtype)[None]).reshape(-1)

    row, column = tile.row.inverse_norms[i], tile.column.inverse_norms[j]
    first, second = tile.row.facts[i], tile.column.facts[j]
    flipped = (column > row) | ((column == row) & (second < first))
    pair = jnp.stack([jnp.where(flipped, second, first), jnp.where(flipped, first, second)], -1)
    value = tile.products[i, j] * jnp.where(flipped, column, row)
    pair = jnp.where(tile.strengths[i, j][:, None] >= 0, pair, -1)
    return strongest_of(
        jnp.concatenate([pairs, pair.astype(pairs.dtype)]), jnp.concatenate([values, value]), top
    )


def strongest_of(pairs: Array, values: Array, top: int) -> tuple[Array, Array]:
    """The strongest pairs, `(top, 2)` and `(top,)`, of some that are there where not negative."""
    strength, best = jax.lax.top_k(jnp.where(pairs[:, 0] >= 0, jnp.abs(values), -1), top)
    there = strength >= 0
    return jnp.where(there[:, None], pairs[best], -1), jnp.where(there, values[best], 0)
