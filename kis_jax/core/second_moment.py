"""The second moment of keys over ordinary text, accumulated in one pass."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike, DTypeLike

from kis_jax.core.checks import holds_or_traced


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SecondMoment:
    r"""Running sum of $k k^\top$ over tokens, and the number of tokens.

    Its mean is the matrix $C$ of the editing literature: uncentred, and divided by tokens, not
    by documents. It is a monoid: `zeros` is its neutral element, `merge` its operation, so parts
    of a corpus may be measured anywhere and added in any order. A leading axis (layers, experts)
    comes from `jax.vmap`, or from stacking.

    Attributes:
      total: sum of the outer products, `(d, d)`.
      count: number of counted tokens, `()`; an integer, exact up to 2^31 - 1 tokens.

    Example:
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

    def update(self, keys: Array, where: ArrayLike | None = None) -> SecondMoment:
        """Adds the keys of some tokens.

        The product runs at the highest matmul precision; keys of a narrower type (bfloat16) are
        multiplied as they are and accumulated in the type of `total`.

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
        total = gram(keys.reshape(-1, d), self.total.dtype)
        return SecondMoment(self.total + total, self.count + count)

    def merge(self, other: SecondMoment) -> SecondMoment:
        """The second moment over the tokens of both."""
        if self.total.shape != other.total.shape:
            raise ValueError(
                f"other: expected a second moment of shape {self.total.shape}, "
                f"found {other.total.shape}; merge only moments of the same layers"
            )
        return SecondMoment(self.total + other.total, self.count + other.count)

    @property
    def mean(self) -> Array:
        """The matrix C, `(d, d)`; NaN where no token was counted."""
        return self.total / self.count[..., None, None].astype(self.total.dtype)


def as_matrix(second_moment: ArrayLike | SecondMoment) -> Array:
    """The matrix C of an argument that may be a `SecondMoment`.

    Raises:
      ValueError: if it is not square, or not of finite numbers.
    """
    c = second_moment.mean if isinstance(second_moment, SecondMoment) else second_moment
    c = jnp.asarray(c)
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


# Below this width, skipping half of a product saves less than it costs to put the parts together.
_NARROW = 1024


def gram(keys: Array, dtype: DTypeLike) -> Array:
    """`keys.T @ keys`, its mirrored part copied rather than computed.

    Splits the columns in two, again and again: each time, three products of a quarter of the size
    take the place of four, so that little more than half of the operations remain.
    """
    d = keys.shape[1]
    if d < _NARROW or d % 2:
        return transposed_product(keys, keys, dtype)
    left, right = keys[:, : d // 2], keys[:, d // 2 :]
    mixed = transposed_product(left, right, dtype)
    return jnp.block([[gram(left, dtype), mixed], [mixed.T, gram(right, dtype)]])


def transposed_product(left: Array, right: Array, dtype: DTypeLike) -> Array:
    """`left.T @ right`, at the highest precision, summed in `dtype`."""
    return jax.lax.dot_general(
        left,
        right,
        (((0,), (0,)), ((), ())),
        precision=jax.lax.Precision.HIGHEST,
        preferred_element_type=dtype,
    )
