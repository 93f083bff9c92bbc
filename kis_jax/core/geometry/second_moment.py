"""The second moment of keys over ordinary text, accumulated in one pass."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import PartitionSpec
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Bool, Float

from kis_jax.core.arrays.bands import band, rows_of_band
from kis_jax.core.arrays.checks import holds_or_traced
from kis_jax.core.arrays.mesh import Axes, axes_of, layout, spread, whole
from kis_jax.core.arrays.products import gram
from kis_jax.core.arrays.pytrees import pytree


@pytree
@dataclasses.dataclass(frozen=True, eq=False)
class SecondMoment:
    r"""Running sum of $k k^\top$ over tokens, and the number of tokens.

    Its mean is the matrix $C$ of the editing literature: uncentred, and divided by tokens, not
    by documents. It is a monoid: `zeros` is its neutral element, `merge` its operation, so parts
    of a corpus may be measured anywhere and added in any order. A leading axis (layers, experts)
    comes from `jax.vmap`, or from stacking.

    Attributes:
      total: sum of the outer products, `(d, d)`.
      count: number of counted tokens, `()`; an integer, exact up to 2^31 - 1 tokens.

    Examples:
      >>> import jax.numpy as jnp
      >>> moment = SecondMoment.zeros(2).update(jnp.array([[1.0, 0.0], [1.0, 2.0]]))
      >>> moment.mean
      Array([[1., 1.],
             [1., 2.]], dtype=float32)

    Reference: Meng et al. 2022 (arXiv 2202.05262), eq. 2; Hu et al. 2024 (arXiv 2408.07413).
    """

    total: Array
    count: Array

    @classmethod
    def zeros(cls, d: int, dtype: DTypeLike = jnp.float32) -> SecondMoment:
        """An empty second moment of keys of width `d`, to be accumulated in `dtype`."""
        return cls(jnp.zeros((d, d), dtype), jnp.zeros((), jnp.int32))

    def update(
        self, keys: Float[Array, "*tokens d"], where: Bool[ArrayLike, "*tokens"] | None = None
    ) -> SecondMoment:
        """Adds the keys of some tokens.

        The product runs at the highest matmul precision; keys of a narrower type (bfloat16) are
        multiplied as they are and accumulated in the type of `total`. Tokens may be dealt out over
        devices: each multiplies its own, once they are added up. So may features, or the rows of
        `total`, over other axes of the mesh: then each device computes its rows alone.

        Args:
          keys: `(..., d)`, one key for each token.
          where: `(...)` bool, the tokens that count; all of them if None. What stands at the
            others (padding) is never read as a number, so a NaN there does no harm.

        Returns:
          The second moment with these tokens added.

        Raises:
          ValueError: if the width of `keys` is not that of `total`, or `where` does not have
            the leading shape of `keys`.
        """
        d = self.total.shape[-1]
        if keys.ndim < 1 or keys.shape[-1] != d:
            raise ValueError(
                f"keys: expected shape (..., {d}), the width of this second moment, "
                f"found {keys.shape}; measure both at the same layer"
            )
        if where is None:
            count = jnp.asarray(keys.size // d, jnp.int32)
        else:
            where = jnp.asarray(where, bool)
            if where.shape != keys.shape[:-1]:
                raise ValueError(
                    f"where: expected shape {keys.shape[:-1]}, one flag for each key, "
                    f"found {where.shape}; pass the mask of the tokens"
                )
            keys = jnp.where(where[..., None], keys, jnp.zeros((), keys.dtype))
            count = jnp.sum(where, dtype=jnp.int32)
        return SecondMoment(self._plus(keys), self.count + count)

    def _plus(self, keys: Array) -> Array:
        """The sum with the products of some keys; its rows lie as they did, or as features do."""
        found = layout(keys) or layout(self.total)
        if found is None:
            return _with_products(self.total, keys)
        rows = axes_of(self.total) or axes_of(keys, -1)
        dealt = (axes_of(keys, place) for place in range(keys.ndim - 1))
        tokens = [tuple(name for name in part if name not in rows) for part in dealt]
        of_total = PartitionSpec(rows or None)
        specs = of_total, PartitionSpec(*(part or None for part in tokens), rows or None)
        options = {"rows": rows, "tokens": sum(tokens, ())}
        given = self.total, keys
        return spread(_with_products, found.mesh, specs, of_total, *given, **options)

    def merge(self, other: SecondMoment) -> SecondMoment:
        """The second moment over the tokens of both."""
        if self.total.shape != other.total.shape:
            raise ValueError(
                f"other: expected a second moment of shape {self.total.shape}, "
                f"found {other.total.shape}; merge only second moments of the same layers"
            )
        return SecondMoment(self.total + other.total, self.count + other.count)

    @property
    def mean(self) -> Float[Array, "*layers d d"]:
        """The matrix C, `(d, d)`; NaN where no token was counted."""
        return self.total / self.count[..., None, None].astype(self.total.dtype)


def as_matrix(second_moment: Float[ArrayLike, "d d"] | SecondMoment) -> Float[Array, "d d"]:
    """The matrix C of an argument that may be a `SecondMoment`, whole on each device of its mesh.

    Raises:
      ValueError: if it is not square, or not of finite numbers.
    """
    c = second_moment.mean if isinstance(second_moment, SecondMoment) else second_moment
    c = whole(jnp.asarray(c))
    if c.ndim != 2 or c.shape[0] != c.shape[1]:
        raise ValueError(
            f"second_moment: expected shape (d, d), found {c.shape}; for several layers use "
            "jax.vmap or one call for each"
        )
    if not holds_or_traced(jnp.all(jnp.isfinite(c))):
        raise ValueError(
            "second_moment: expected finite entries, found NaN or infinity; a SecondMoment "
            "without tokens has mean NaN, and so has one over keys that overflowed"
        )
    return c


def _with_products(total: Array, keys: Array, *, rows: Axes = (), tokens: Axes = ()) -> Array:
    """A sum with the products of keys.

    Within `shard_map`, its rows and the features of keys may be dealt out over axes of a mesh, and
    the tokens over others.
    """
    if rows:
        found = band(keys, None, rows, total.dtype)
        return total + rows_of_band(jax.lax.psum(found, tokens) if tokens else found, rows)
    found = gram(keys.reshape(-1, keys.shape[-1]), total.dtype)
    return total + (jax.lax.psum(found, tokens) if tokens else found)
