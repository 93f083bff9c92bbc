"""The second moment of keys as one triangle: half the memory, and sums made in place."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from kis_jax.core.arrays.products import transposed_product
from kis_jax.core.arrays.pytrees import pytree


@pytree
@dataclasses.dataclass(frozen=True, eq=False)
class PackedMoment:
    r"""Running sum of $k k^\top$ over tokens, of which only the upper triangle is held.

    The sum is cut into blocks of rows, each from its diagonal block on. What a plain
    `SecondMoment` spends on the mirrored half, and on putting it in its place after every batch,
    is saved: with donated buffers a batch costs one product a block, and no copy.

    Attributes:
      rows: for each `(start, stop)` of `row_blocks(d)`, an array `(stop - start, d - start)`.
      count: number of counted tokens, `()` int32.

    Examples:
      >>> import jax.numpy as jnp
      >>> moment = PackedMoment.zeros(2).update(jnp.array([[1.0, 0.0], [1.0, 2.0]]))
      >>> moment.rows[0], int(moment.count)
      (Array([[2., 2.],
             [2., 4.]], dtype=float32), 2)
    """

    rows: tuple[Array, ...]
    count: Array

    @classmethod
    def zeros(cls, d: int) -> PackedMoment:
        """An empty sum in float32 of keys of width `d`."""
        rows = tuple(jnp.zeros((stop - start, d - start)) for start, stop in row_blocks(d))
        return cls(rows, jnp.zeros((), jnp.int32))

    def update(self, keys: Array, where: ArrayLike | None = None) -> PackedMoment:
        """Adds the keys of some tokens; see `SecondMoment.update`.

        Args:
          keys: `(..., d)`, one key for each token.
          where: `(...)` bool, the tokens that count; all of them if None.

        Raises:
          ValueError: if the width of `keys` is another, or `where` has not their leading shape.
        """
        d = self.rows[0].shape[1]
        if keys.ndim < 1 or keys.shape[-1] != d:
            raise ValueError(
                f"keys: expected shape (..., {d}), the width of this second moment, "
                f"found {keys.shape}; measure both at the same layer"
            )
        where = jnp.ones(keys.shape[:-1], bool) if where is None else jnp.asarray(where, bool)
        if where.shape != keys.shape[:-1]:
            raise ValueError(
                f"where: expected shape {keys.shape[:-1]}, one flag for each key, "
                f"found {where.shape}; pass the mask of the tokens"
            )
        keys = jnp.where(where[..., None], keys, jnp.zeros((), keys.dtype)).reshape(-1, d)
        rows = tuple(
            total + transposed_product(keys[:, start:stop], keys[:, start:], jnp.float32)
            for total, (start, stop) in zip(self.rows, row_blocks(d), strict=True)
        )
        return PackedMoment(rows, self.count + jnp.sum(where, dtype=jnp.int32))


def row_blocks(d: int) -> Iterator[tuple[int, int]]:
    """Starts and stops of the blocks of rows of a triangle of width `d`.

    An eighth of the rows each, so that the diagonal blocks, which are whole, cost an eighth more
    than the triangle; but at least 512 rows, below which products are slow.

    Examples:
      >>> list(row_blocks(1200))
      [(0, 512), (512, 1024), (1024, 1200)]
    """
    step = max(512, -(-d // 8))
    for start in range(0, d, step):
        yield start, min(start + step, d)


def packed_size(d: int) -> int:
    """How many numbers a `PackedMoment` of width `d` holds."""
    return sum((stop - start) * (d - start) for start, stop in row_blocks(d))
