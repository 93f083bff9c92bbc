"""One tile of a superposition matrix with its mirror image: its counts, sums, strongest pairs."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from kis_jax.core.moments import Moments, from_power_sums
from kis_jax.core.products import inner

_SLICES = 8


class Block(NamedTuple):
    """Facts along one side of a tile: `(side, r)` whitened keys and the rest `(side,)`."""

    white: Array
    inverse_norms: Array  # of the whitened keys, squared
    groups: Array
    facts: Array


class Tile(NamedTuple):
    """Inner products of the facts of two blocks, `(rows, columns)`, and which of them count."""

    products: Array
    row: Block
    column: Block
    limits: Array  # `(columns,)`: of each column, the facts below its limit count

    @property
    def by_row(self) -> Array:
        """Entries of P where the facts of the rows are edited."""
        return self.products * self.row.inverse_norms[:, None]

    @property
    def by_column(self) -> Array:
        """Entries of P where the facts of the columns are edited, as [touched, edited]."""
        return self.products * self.column.inverse_norms

    @property
    def counted(self) -> Array:
        """Which pairs count."""
        return self.row.facts[:, None] < self.limits

    @property
    def strengths(self) -> Array:
        """The greater of both entries of a pair in absolute value; -1 within a group."""
        different = self.counted & (self.row.groups[:, None] != self.column.groups)
        scale = jnp.maximum(self.row.inverse_norms[:, None], self.column.inverse_norms)
        return jnp.where(different, jnp.abs(self.products) * scale, -1)

    def slices(self) -> list[Tile]:
        """Slices of some columns each, all of one shape.

        Summed entry by entry, or compared, they leave little to be reduced. That is work which
        every backend vectorises and spreads over its cores; a reduction of the tile is not.
        """
        count = math.gcd(len(self.limits), _SLICES)
        columns = zip(*(jnp.split(field, count) for field in self.column), strict=True)
        return [
            Tile(products, self.row, Block(*column), limits)
            for products, column, limits in zip(
                jnp.split(self.products, count, axis=1),
                columns,
                jnp.split(self.limits, count),
                strict=True,
            )
        ]


def make_tile(row: Block, column: Block, diagonal: Array, num_facts: int) -> Tile:
    """The tile of two blocks; on the diagonal, each pair counts once; padding never does."""
    limits = jnp.where(diagonal, column.facts, num_facts)
    products = inner(row.white, column.white)
    return Tile(products, row, column, jnp.where(column.facts < num_facts, limits, 0))


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
    facts = tile.row.facts
    count = 2 * jnp.sum(jnp.clip(tile.limits - facts[0], 0, len(facts)))
    return from_power_sums(count.astype(centre.dtype), [jnp.sum(part) for part in sums])


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
    j = (lane[:, None] % width + jnp.arange(0, columns, width, dtype=lane.dtype)).reshape(-1)

    row, column = tile.row.inverse_norms[i], tile.column.inverse_norms[j]
    first, second = tile.row.facts[i], tile.column.facts[j]
    flipped = (column > row) | ((column == row) & (second < first))
    pair = jnp.stack([jnp.where(flipped, second, first), jnp.where(flipped, first, second)], -1)
    value = tile.products[i, j] * jnp.where(flipped, column, row)
    known = jnp.where(pairs[:, 0] >= 0, jnp.abs(values), -1)
    strength, best = jax.lax.top_k(jnp.concatenate([known, tile.strengths[i, j]]), top)
    pairs = jnp.concatenate([pairs, pair.astype(pairs.dtype)])[best]
    values = jnp.concatenate([values, value])[best]
    there = strength >= 0
    return jnp.where(there[:, None], pairs, -1), jnp.where(there, values, 0)
