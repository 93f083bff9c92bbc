"""Statistics of the superposition matrix of any number of facts, tile by tile."""

from __future__ import annotations

import dataclasses
import functools
import math
import operator
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import PartitionSpec
from jaxtyping import Bool, Float, Int, Real

from kis_jax.core.arrays.checks import as_rows, holds_or_traced
from kis_jax.core.arrays.mesh import axes_of, layout, spread
from kis_jax.core.arrays.products import power_of_two
from kis_jax.core.arrays.pytrees import pytree
from kis_jax.core.geometry.spaces import Space, as_space
from kis_jax.core.geometry.tiles import Found, blocks_of, look, nothing_found
from kis_jax.core.statistics.moments import Moments
from kis_jax.core.statistics.tail import hill


@pytree
@dataclasses.dataclass(frozen=True, eq=False)
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
    def tail_index(self) -> Float[Array, "*layers"]:
        """Hill's estimate of the tail index of |P| over the pairs kept, `()`.

        Of the strengths in `values`, the weakest is the threshold and all above it count: as
        `tail_index(strengths, top - 1)` over all pairs. The smaller, the heavier the tail: moments
        of this order and above do not exist. NaN with fewer than two pairs.
        """
        return hill(jnp.abs(self.values))

    @property
    def effective_pairs(self) -> Float[Array, "*layers"]:
        r"""Effective number of colliding ordered pairs, `()`.

        The participation ratio $(\sum p^2)^2 / \sum p^4$ over off-diagonal entries: k if k of them
        are of one size and the others 0, n (n - 1) if all are of one size.
        """
        m, mean = self.moments, self.moments.mean
        squares = m.m2 + m.count * mean**2
        fourths = m.m4 + 4 * mean * m.m3 + mean**2 * (6 * m.m2 + m.count * mean**2)
        return squares / fourths * squares


def summarize(
    keys: Float[Array, "n d"],
    whitener: Space,
    *,
    tile: int = 1024,
    bins: int | Real[Array, " edges"] = 200,
    top: int = 100,
    groups: Int[Array, " n"] | None = None,
    where: Bool[Array, " n"] | None = None,
    axis_name: str | tuple[str, ...] | None = None,
) -> Summary:
    """Summary of the superposition of n facts, never holding an `(n, n)` array.

    Whitens the keys once, then runs over the square tiles of one half of their Gram matrix: one
    product gives a tile of P and its mirror image. Needs memory for the keys and a few tiles. If
    the facts are dealt out over a mesh, each device keeps its own, and meets those of the others as
    they go around.

    Args:
      keys: one fact a row, `(n, d)`, at least two; on a mesh, its rows over any of the axes.
      whitener: of the layer's second moment.
      tile: facts along the side of a tile, at most.
      bins: number of equal bins from -1 to 1, or their edges, rising, `(bins + 1,)`; equal bins
        are quicker. An entry within rounding of an edge may be counted on either side of it.
      top: number of colliding pairs to keep; at most n (n - 1) / 2 are there.
      groups: `(n,)` int, such as the subject that a fact is about. Pairs within one group are left
        out of `pairs`, which duplicates would crowd out, and of `tail_index`; moments and
        histogram hold them all the same.
      where: `(n,)` bool, the facts that count; all if None. What stands in the other rows, such
        as what fills them up to a number that the devices divide, is never read.
      axis_name: within `shard_map`, the mesh axes that the facts are dealt out over: `keys`,
        `groups` and `where` are this device's, and the summary is that of all.

    Returns:
      A `Summary` in the dtype of the whitener.

    Raises:
      ValueError: if `keys` has fewer than two rows or another width than the whitener, if `tile`
        or `top` is not positive, `bins` are no edges, `groups` or `where` not one for each fact;
        or if there are more entries than a count can hold.

    Examples:
      >>> import jax.numpy as jnp
      >>> from kis_jax.core.geometry.whitening import whitener
      >>> keys = jnp.array([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
      >>> summary = summarize(keys, whitener(jnp.eye(2)), top=1)
      >>> summary.pairs, summary.values
      (Array([[1, 2]], dtype=int32), Array([0.8], dtype=float32))
    """
    keys = as_rows("keys", keys, as_space("whitener", whitener).width)
    n = keys.shape[0] * (jax.lax.axis_size(axis_name) if axis_name else 1)
    if n < 2:
        raise ValueError(f"keys: expected shape (n, d) with n >= 2, found {keys.shape}")
    if tile < 1 or top < 1:
        raise ValueError(f"tile, top: expected positive numbers, found tile={tile}, top={top}")
    groups = None if groups is None else jnp.asarray(groups)
    if groups is not None and groups.shape != keys.shape[:1]:
        raise ValueError(
            f"groups: expected shape ({len(keys)},), one for each key, found {groups.shape}; "
            "number the subjects of the facts"
        )
    where = None if where is None else jnp.asarray(where, bool)
    if where is not None and where.shape != keys.shape[:1]:
        raise ValueError(
            f"where: expected shape ({len(keys)},), one flag for each key, found {where.shape}; "
            "say of each fact whether it counts"
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
    if where is not None:
        keys = jnp.where(where[:, None], keys, jnp.zeros((), keys.dtype))
    white = whitener.whiten(keys)
    # P has no scale: with one for all keys, no square leaves the range of the dtype.
    largest = jnp.max(jnp.abs(jax.lax.stop_gradient(white)), initial=0)
    white = white * power_of_two(jax.lax.pmax(largest, axis_name) if axis_name else largest)
    _check_sound(white, where)
    edges = edges.astype(white.dtype)
    options: dict[str, Any] = {"tile": tile, "top": top, "equal": equal}
    if axes_of(white) or axis_name:
        from kis_jax.core.arrays.ring import ring_tiles  # only where there is more than one device

        options["axis_name"] = axis_name or axes_of(white)
        arguments = white, edges, groups, where
        if axis_name:
            found, whole = ring_tiles(*arguments, **options)
        else:
            rows, same = PartitionSpec(options["axis_name"]), PartitionSpec()
            mesh = layout(white).mesh  # pyright: ignore[reportOptionalMemberAccess]
            specs = rows, same, rows, rows
            found, whole = spread(ring_tiles, mesh, specs, same, *arguments, **options)
    else:
        found, whole = _over_tiles(white, edges, groups, where, **options)
    outside = found.counts[0] + found.counts[-1]
    return Summary(whole, found.counts[1:-1], edges, outside, found.pairs, found.values)


def _check_sound(white: Array, where: Array | None) -> None:
    """Raises ValueError if a whitened key that counts is zero or not finite."""
    sizes = jnp.sum(white * white, axis=1)
    sound = (sizes > 0) & jnp.isfinite(sizes)
    sound = sound if where is None else sound | ~where
    if not holds_or_traced(jnp.all(sound)):
        raise ValueError(
            f"keys: expected finite keys that are not zero, found row {jnp.argmin(sound)} to be "
            "one (or beyond the range of its dtype); leave it out, or give where"
        )


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


@functools.partial(jax.jit, static_argnames=("tile", "top", "equal"))
def _over_tiles(
    white: Array,
    edges: Array,
    groups: Array | None,
    where: Array | None,
    *,
    tile: int,
    top: int,
    equal: bool,
) -> tuple[Found, Moments]:
    tiles, _ = tiling = _tiling(len(white), tile)
    blocks, centre = blocks_of(white, groups, where, tiling=tiling)

    def over_row(found: Found, row: Array) -> tuple[Found, Moments]:
        edited = jax.tree.map(lambda field: field[row], blocks)

        def step(found: Found, distance: Array) -> tuple[Found, Moments]:
            touched = jax.tree.map(lambda field: field[(row + distance) % tiles], blocks)
            return look(found, edited, touched, distance == 0, edges, centre, equal=equal)

        # Of each two tiles that mirror one another, one is within half a turn of its row; their
        # number is odd.
        return jax.lax.scan(step, found, jnp.arange(tiles // 2 + 1))

    found, parts = jax.lax.scan(over_row, nothing_found(blocks, edges, top), jnp.arange(tiles))
    return found, jax.tree.map(jnp.ravel, parts).merged().moved(centre)


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
