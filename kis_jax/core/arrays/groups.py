"""Rows put together by the group that they belong to, in blocks of one group each."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

_BLOCK = 8, 128  # the fewest and the most rows of a block


class Groups(NamedTuple):
    """Where rows go, and whose the blocks are: `(blocks, size)` places, some of them left empty.

    Attributes:
      places: of each row among all places, `(n,)`; beyond the last for a row of no group.
      owners: the group of each block, `(blocks,)`; blocks that are left over go to the last.
      size: rows of a block.
    """

    places: Array
    owners: Array
    size: int

    def blocks(self, rows: Array) -> Array:
        """The rows at their places, `(n, d)` to `(blocks, size, d)`; zeros where there are none."""
        shape = len(self.owners) * self.size, *rows.shape[1:]
        placed = jnp.zeros(shape, rows.dtype).at[self.places].set(rows, mode="drop")
        return placed.reshape(len(self.owners), self.size, *rows.shape[1:])

    def rows(self, blocks: Array) -> Array:
        """The way back, `(blocks, size, d)` to `(n, d)`."""
        return blocks.reshape(-1, *blocks.shape[2:])[self.places]


def group_rows(groups: Array, count: int) -> Groups:
    """Places for rows, so that a scan over blocks meets each group's rows together.

    However unevenly rows are dealt out, places are `n + size * min(count, n)` at most: no array of
    rows times groups comes to be.

    Args:
      groups: of each row, `(n,)` int; `count` or more for a row of none.
      count: of groups.

    Examples:
      >>> import jax.numpy as jnp
      >>> found = group_rows(jnp.array([1, 0, 1]), 2)
      >>> found.owners, found.blocks(jnp.array([[5.0], [6.0], [7.0]]))[:, :2, 0]
      (Array([0, 1], dtype=int32), Array([[6., 0.],
             [5., 7.]], dtype=float32))
    """
    n = len(groups)
    size = min(max(_BLOCK[0], n // count), _BLOCK[1])
    blocks = n // size + min(count, n)
    groups = jnp.minimum(groups, count)
    of_each = jnp.zeros(count + 1, jnp.int32).at[groups].add(1)
    begun = -(-of_each // size)  # the last block of a group may not be full
    first, first_block = jnp.cumsum(of_each) - of_each, jnp.cumsum(begun) - begun
    order = jnp.argsort(groups, stable=True)
    ordered = groups[order]
    within = jnp.arange(n, dtype=jnp.int32) - first[ordered]
    places = jnp.where(ordered < count, size * first_block[ordered] + within, blocks * size)
    numbers = jnp.arange(blocks, dtype=jnp.int32)
    owners = jnp.searchsorted(jnp.cumsum(begun[:count]), numbers, side="right")
    return Groups(
        jnp.zeros(n, jnp.int32).at[order].set(places),
        jnp.minimum(owners, count - 1).astype(jnp.int32),
        size,
    )
