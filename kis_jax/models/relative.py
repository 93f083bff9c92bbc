"""Distances between tokens, sorted into buckets: one a token near by, ever wider ones far away."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from kis_jax.models.positions import positions_of


class Distances(NamedTuple):
    """The distances between the tokens of some texts.

    Attributes:
      vectors: `(rows, width)`, one for each bucket of each direction.
      rows: `(b, t, t)` int, the bucket of each pair of tokens: who sees, then what is seen.
    """

    vectors: Array
    rows: Array


@dataclasses.dataclass(frozen=True)
class RelativePositions:
    """How attention sees the distance between two tokens, by one learned vector for each bucket.

    Attributes:
      buckets: of each direction; every distance has its own if there are as many as `farthest`.
      farthest: the distance from which on all are alike.
      logarithmic: whether distances beyond half the buckets share them, the farther the more.
      to_position: whether a query asks for the distance of what it sees.
      from_position: whether a key asks for the distance of who sees it.
      shared: whether these vectors go through attention's own projections of queries and keys.
      norm: whether they go through a norm first.
    """

    buckets: int
    farthest: int
    logarithmic: bool
    to_position: bool
    from_position: bool
    shared: bool
    norm: bool

    @property
    def rows(self) -> int:
        """Vectors in the table: of both directions."""
        return 2 * self.buckets

    def row_of(self, mask: Array) -> Array:
        """`Distances.rows` of texts with a mask `(b, t)`; only the tokens that it admits count."""
        place = positions_of(mask)
        distance = place[:, :, None] - place[:, None, :]
        return jnp.asarray(self.table(mask.shape[1]))[distance + mask.shape[1] - 1]

    def table(self, length: int) -> np.ndarray:
        """The row of each distance from `1 - length` to `length - 1`, `(2 length - 1,)` int32.

        Examples:
          >>> near = RelativePositions(4, 16, True, True, True, True, False)
          >>> near.table(7).tolist()
          [1, 1, 1, 1, 2, 3, 4, 5, 6, 7, 7, 7, 7]
        """
        distance = np.arange(1 - length, length)
        bucket = _in_logarithms(distance, self) if self.logarithmic else distance
        return np.clip(bucket + self.buckets, 0, self.rows - 1).astype(np.int32)


def _in_logarithms(distance: np.ndarray, relative: RelativePositions) -> np.ndarray:
    """Up to half the buckets the distance itself; of those beyond the logarithm, rounded up.

    Computed on the host and in float64, as rounding up leaves no room for a device's error.
    """
    half = relative.buckets // 2
    far = np.maximum(np.abs(distance), half) / half
    share = np.log(far) / np.log((relative.farthest - 1) / half)
    bucket = np.ceil(share * (half - 1)).astype(np.int64) + half
    return np.where(np.abs(distance) <= half, distance, np.sign(distance) * bucket)
