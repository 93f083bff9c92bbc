"""Statistics of the superposition matrix of any number of facts, tile by tile."""

from __future__ import annotations

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from jax import Array

from kis_jax.core.moments import Moments, moments
from kis_jax.core.whitening import Whitener

_MOST_ENTRIES = 2**31 - 1


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
        once, as (edited, touched), in the order in which the edit harms most.
      values: `(top,)`, their entries of P, falling in absolute value.
    """

    moments: Moments
    histogram: Array
    edges: Array
    outside: Array
    pairs: Array
    values: Array


def summarize(
    keys: Array,
    whitener: Whitener,
    *,
    tile: int = 1024,
    bins: int | Array = 200,
    top: int = 100,
) -> Summary:
    """Summary of the superposition of n facts, never holding an `(n, n)` array.

    Whitens the keys once, then runs over the square tiles on and above the diagonal of their Gram
    matrix: one product gives a tile of P and its mirror image. Needs memory for the keys and a
    few tiles.

    Args:
      keys: one fact a row, `(n, d)`, at least two.
      whitener: of the layer's second moment.
      tile: facts along the side of a tile.
      bins: number of equal bins from -1 to 1, or their edges, rising, `(bins + 1,)`.
      top: number of colliding pairs to keep; at most n (n - 1) / 2 are there.

    Returns:
      A `Summary` in the dtype of the whitener.

    Raises:
      ValueError: if `keys` has fewer than two rows or another width than the whitener, or if
        `tile` or `top` is not positive; or if there are more pairs than a count can hold.

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
    if n * (n - 1) > _MOST_ENTRIES:
        raise ValueError(
            f"keys: expected at most {math.isqrt(_MOST_ENTRIES):,} facts, whose entries an int32 "
            f"can count, found {n:,}; summarize parts of them"
        )
    white = whitener.whiten(keys)
    edges = jnp.asarray(bins) if jnp.ndim(bins) else jnp.linspace(-1, 1, int(bins) + 1)
    if edges.ndim != 1 or edges.size < 2:
        raise ValueError(f"bins: expected a number or rising edges, found shape {edges.shape}")
    top = min(top, n * (n - 1) // 2)
    return _summarize(white, edges.astype(white.dtype), min(tile, n), top)


@functools.partial(jax.jit, static_argnames=("tile", "top"))
def _summarize(white: Array, edges: Array, tile: int, top: int) -> Summary:
    n, rank = white.shape
    tiles = -(-n // tile)
    white = jnp.pad(white, ((0, tiles * tile - n), (0, 0))).reshape(tiles, tile, rank)
    norms = jnp.sum(white * white, axis=-1)
    rows, columns = jnp.triu_indices(tiles)

    def step(summary: Summary, index: tuple[Array, Array]) -> tuple[Summary, None]:
        row, column = index
        products = jnp.matmul(white[row], white[column].T, precision=jax.lax.Precision.HIGHEST)
        edited = row * tile + jnp.arange(tile)[:, None]
        touched = column * tile + jnp.arange(tile)[None, :]
        # On the diagonal, a tile already holds both orders of its pairs.
        above = (touched < n) & (edited < touched)
        by_row = products / jnp.where(above, norms[row][:, None], 1)
        by_column = products / jnp.where(above, norms[column][None, :], 1)
        entries = jnp.stack([by_row, by_column])
        counted = jnp.broadcast_to(above, entries.shape)
        histogram, outside = _histogram(entries, counted, edges)
        pairs, values = _strongest(by_row, by_column, above, edited, touched, top, summary)
        return Summary(
            summary.moments.merge(moments(entries, where=counted)),
            summary.histogram + histogram,
            edges,
            summary.outside + outside,
            pairs,
            values,
        ), None

    zero = jnp.zeros((), white.dtype)
    empty = Summary(
        Moments(zero, zero, zero, zero, zero),
        jnp.zeros(edges.size - 1, jnp.int32),
        edges,
        jnp.zeros((), jnp.int32),
        jnp.full((top, 2), -1, jnp.int32),
        jnp.zeros(top, white.dtype),
    )
    return jax.lax.scan(step, empty, (rows, columns))[0]


def _histogram(entries: Array, counted: Array, edges: Array) -> tuple[Array, Array]:
    inside = counted & (entries >= edges[0]) & (entries <= edges[-1])
    bins = edges.size - 1
    index = jnp.clip(jnp.searchsorted(edges, entries, side="right") - 1, 0, bins - 1)
    histogram = jnp.zeros(bins, jnp.int32).at[index].add(inside.astype(jnp.int32))
    return histogram, jnp.sum(counted, dtype=jnp.int32) - jnp.sum(inside, dtype=jnp.int32)


def _strongest(
    by_row: Array,
    by_column: Array,
    above: Array,
    edited: Array,
    touched: Array,
    top: int,
    summary: Summary,
) -> tuple[Array, Array]:
    """The strongest pairs among those of a tile and those found before."""
    flipped = jnp.abs(by_column) > jnp.abs(by_row)
    value = jnp.where(flipped, by_column, by_row)
    strength = jnp.where(above, jnp.abs(value), -1).reshape(-1)
    strength, place = jax.lax.top_k(strength, min(top, strength.size))
    first, second = jnp.broadcast_arrays(edited, touched)
    pair = jnp.stack(
        [jnp.where(flipped, second, first), jnp.where(flipped, first, second)], axis=-1
    ).reshape(-1, 2)
    known = jnp.where(summary.pairs[:, 0] >= 0, jnp.abs(summary.values), -1)
    _, best = jax.lax.top_k(jnp.concatenate([known, strength]), top)
    pairs = jnp.concatenate([summary.pairs, pair[place].astype(jnp.int32)])[best]
    values = jnp.concatenate([summary.values, value.reshape(-1)[place]])[best]
    return pairs, values
