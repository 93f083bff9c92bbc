"""Statistics of the superposition matrix of any number of facts, tile by tile."""

from __future__ import annotations

import dataclasses
import functools
import math
import operator
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh

from kis_jax.core.blocked import BlockedWhitener
from kis_jax.core.checks import holds_or_traced
from kis_jax.core.mesh import checked_mesh
from kis_jax.core.moments import Moments
from kis_jax.core.ring import ring_tiles, whitened_rows
from kis_jax.core.tail import hill
from kis_jax.core.tiles import Block, count_slots, make_tile, power_sums, strongest
from kis_jax.core.whitening import Whitener


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Summary:
    """What is worth knowing of a superposition matrix P without holding it.

    Attributes:
      moments: of the n (n - 1) off-diagonal entries.
      histogram: `(bins,)` int, how many of them fall between consecutive edges; the last bin
        holds its right edge, as `numpy.histogram`.
      edges: `(bins + 1,)`.
      outside: `()` int, how many lie beyond the first and the last edge.
      pairs: `(top, 2)` int, the colliding facts, strongest first. Each unordered pair stands
        once, as (edited, touched), in the order in which the edit harms most. -1 where groups
        leave fewer pairs than asked for.
      values: `(top,)`, their entries of P, falling in absolute value; 0 where there is no pair.
    """

    moments: Moments
    histogram: Array
    edges: Array
    outside: Array
    pairs: Array
    values: Array

    @property
    def tail_index(self) -> Array:
        """Hill's estimate of the tail index of |P| over the pairs kept, `()`.

        Of the strengths in `values`, the weakest is the threshold and all above it count: as
        `tail_index(strengths, top - 1)` over all pairs. The smaller, the heavier the tail: moments
        of this order and above do not exist. NaN with fewer than two pairs.
        """
        return hill(jnp.abs(self.values))

    @property
    def effective_pairs(self) -> Array:
        r"""Effective number of colliding ordered pairs, `()`.

        The participation ratio $(\sum p^2)^2 / \sum p^4$ over off-diagonal entries: k if k of them
        are of one size and the others 0, n (n - 1) if all are of one size.
        """
        m, mean = self.moments, self.moments.mean
        squares = m.m2 + m.count * mean**2
        fourths = m.m4 + 4 * mean * m.m3 + mean**2 * (6 * m.m2 + m.count * mean**2)
        return squares / fourths * squares


def summarize(
    keys: Array,
    whitener: Whitener | BlockedWhitener,
    *,
    tile: int = 1024,
    bins: int | Array = 200,
    top: int = 100,
    groups: Array | None = None,
    mesh: Mesh | None = None,
) -> Summary:
    """Summary of the superposition of n facts, never holding an `(n, n)` array.

    Whitens the keys once, then runs over the square tiles of one half of their Gram matrix: one
    product gives a tile of P and its mirror image. Needs memory for the keys and a few tiles.

    Args:
      keys: one fact a row, `(n, d)`, at least two.
      whitener: of the layer's second moment.
      tile: facts along the side of a tile, at most.
      bins: number of equal bins from -1 to 1, or their edges, rising, `(bins + 1,)`; equal bins
        are quicker. An entry within rounding of an edge may be counted on either side of it.
      top: number of colliding pairs to keep; at most n (n - 1) / 2 are there.
      groups: `(n,)` int, such as the subject that a fact is about. Pairs within one group are left
        out of `pairs`, which duplicates would crowd out, and of `tail_index`; moments and
        histogram hold them all the same.
      mesh: of devices to deal the facts and the tiles out over, as `make_mesh` makes it: each
        holds some facts, and meets those of the others as they go around. One device if None.

    Returns:
      A `Summary` in the dtype of the whitener.

    Raises:
      ValueError: if `keys` has fewer than two rows or another width than the whitener, if `tile`
        or `top` is not positive, `bins` are no edges or `groups` not one for each fact; or if
        there are more entries than a count can hold.

    Example:
      >>> import jax.numpy as jnp
      >>> from kis_jax.core.whitening import whitener
      >>> keys = jnp.array([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
      >>> summary = summarize(keys, whitener(jnp.eye(2)), top=1)
      >>> summary.pairs, summary.values
      (Array([[1, 2]], dtype=int32), Array([0.8], dtype=float32))
    """
    if keys.ndim != 2 or keys.shape[0] < 2:
        raise ValueError(f"keys: expected shape (n, d) with n >= 2, found {keys.shape}")
    if tile < 1 or top < 1:
        raise ValueError(f"tile, top: expected positive numbers, found tile={tile}, top={top}")
    n = keys.shape[0]
    groups = None if groups is None else jnp.asarray(groups)
    if groups is not None and groups.shape != (n,):
        raise ValueError(
            f"groups: expected shape ({n},), one for each key, found {groups.shape}; number the "
            "subjects of the facts"
        )
    most = jnp.iinfo(_count_dtype()).max
    if n * (n - 1) > most:
        raise ValueError(
            f"keys: expected at most {math.isqrt(most):,} facts, whose entries an "
            f"{_count_dtype().name} can count, found {n:,}; call it under jax.enable_x64(True), "
            "where float32 keys stay float32"
        )
    edges, equal = _edges(bins), not jnp.ndim(bins)
    top = min(top, n * (n - 1) // 2)
    if mesh is not None:
        return _on_mesh(keys, whitener, edges, groups, tile, top, equal, checked_mesh(mesh))
    white = whitener.whiten(keys)
    _check_sound(white)
    return _summarize(
        white, edges.astype(white.dtype), groups, tiling=_tiling(n, tile), top=top, equal=equal
    )


def _check_sound(white: Array) -> None:
    """Raises ValueError if a whitened key is zero or not finite."""
    sizes = jnp.sum(white * white, axis=1)
    sound = (sizes > 0) & jnp.isfinite(sizes)
    if not holds_or_traced(jnp.all(sound)):
        raise ValueError(
            f"keys: expected finite keys that are not zero, found row {jnp.argmin(sound)} to be "
            "one (or beyond the range of its dtype); leave it out"
        )


def _on_mesh(
    keys: Array,
    whitener: Whitener | BlockedWhitener,
    edges: Array,
    groups: Array | None,
    tile: int,
    top: int,
    equal: bool,
    mesh: Mesh,
) -> Summary:
    """The same, the facts dealt out over devices in whole tiles."""
    n = len(keys)
    share = -(-n // mesh.size)
    tiles = -(-share // tile)
    side = -(-share // tiles)
    side += -side % 8 if tile >= 8 else 0
    white = whitened_rows(keys, whitener, mesh, multiple=tiles * side)
    _check_sound(white[:n])
    edges = edges.astype(white.dtype)
    groups = jnp.arange(n) if groups is None else groups
    groups = jnp.pad(groups, (0, len(white) - n))
    found = ring_tiles(
        white, edges, groups, num_facts=n, side=side, top=top, equal=equal, mesh=mesh
    )
    inside, outside = found.counts[1:-1], found.counts[0] + found.counts[-1]
    return Summary(found.moments, inside, edges, outside, found.pairs, found.values)


def _edges(bins: int | Array) -> Array:
    """The edges of the histogram, from their number or as given."""
    if not jnp.ndim(bins):
        if operator.index(bins) < 1:
            raise ValueError(f"bins: expected at least 1, found {bins}")
        return jnp.linspace(-1, 1, operator.index(bins) + 1)
    edges = jnp.asarray(bins)
    if edges.ndim != 1 or edges.size < 2 or not holds_or_traced(jnp.all(edges[1:] > edges[:-1])):
        raise ValueError(f"bins: expected a number or rising edges, found {bins}")
    return edges


@functools.partial(jax.jit, static_argnames=("tiling", "top", "equal"))
def _summarize(
    white: Array,
    edges: Array,
    groups: Array | None,
    *,
    tiling: tuple[int, int],
    top: int,
    equal: bool,
) -> Summary:
    n, (tiles, side) = len(white), tiling
    inverse_norms = 1 / jnp.sum(white * white, axis=-1)
    centre = _mean(white, inverse_norms)
    groups = jnp.arange(n) if groups is None else groups
    padding = tiles * side - n
    blocks = Block(
        jnp.pad(white, ((0, padding), (0, 0))).reshape(tiles, side, -1),
        jnp.pad(inverse_norms, (0, padding)).reshape(tiles, side),
        jnp.pad(groups, (0, padding)).reshape(tiles, side),
        jnp.arange(tiles * side).reshape(tiles, side),
    )

    def over_row(found: _Found, row: Array) -> tuple[_Found, Moments]:
        edited = jax.tree.map(lambda field: field[row], blocks)

        def step(found: _Found, distance: Array) -> tuple[_Found, Moments]:
            column = (row + distance) % tiles
            touched = jax.tree.map(lambda field: field[column], blocks)
            tile = make_tile(edited, touched, distance == 0, n)
            counts = count_slots(tile, edges, equal=equal).astype(found.counts.dtype)
            best = strongest(tile, found.pairs, found.values)
            return _Found(found.counts + counts, *best), power_sums(tile, centre)

        # Of each two tiles that mirror one another, one is within half a turn of its row; their
        # number is odd.
        return jax.lax.scan(step, found, jnp.arange(tiles // 2 + 1))

    # Zeros of the data: within `shard_map` a carry varies over the same axes from its first step.
    some = (white[0, 0], groups[0], edges[0])
    zero = functools.reduce(jnp.add, [jnp.zeros_like(x, jnp.int32) for x in some])
    empty = _Found(
        jnp.broadcast_to(zero.astype(_count_dtype()), (edges.size + 1,)),
        jnp.broadcast_to(zero - 1, (top, 2)),
        jnp.broadcast_to(zero.astype(white.dtype), (top,)),
    )
    found, parts = jax.lax.scan(over_row, empty, jnp.arange(tiles))
    whole = jax.tree.map(jnp.ravel, parts).merged()
    return Summary(
        dataclasses.replace(whole, mean=whole.mean + centre),
        found.counts[1:-1],
        edges,
        found.counts[0] + found.counts[-1],
        found.pairs,
        found.values,
    )


class _Found(NamedTuple):
    """What a pass over the tiles carries along."""

    counts: Array  # below all edges, in each bin, above all edges
    pairs: Array
    values: Array


def _mean(white: Array, inverse_norms: Array) -> Array:
    """Mean off-diagonal entry of P to rounding, through the sums of its rows."""
    n = len(white)
    edited = jnp.sum(white * inverse_norms[:, None], axis=0)
    return (edited @ jnp.sum(white, axis=0) - n) / (n * (n - 1))


def _tiling(num_facts: int, most: int) -> tuple[int, int]:
    """An odd number of tiles along P, and their side: a multiple of eight unless `most` is less.

    A somewhat larger number that needs no padding is better: padding copies the keys.
    """
    unit = 8 if most >= 8 else 1
    fewest = -(-num_facts // (most // unit * unit))
    fewest += 1 - fewest % 2
    for tiles in range(fewest, fewest * 3 // 2, 2):
        if num_facts % (tiles * unit) == 0:
            return tiles, num_facts // tiles
    return fewest, -(-num_facts // (fewest * unit)) * unit


def _count_dtype() -> jnp.dtype:
    """The widest integers there are under the present setting of x64."""
    return jax.dtypes.canonicalize_dtype(jnp.int64)
