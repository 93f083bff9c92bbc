"""Rules for sequences of blocks: a space that shrinks, and least squares that forget."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float

from kis_jax.core.arrays.orthonormal import own_share
from kis_jax.core.arrays.pytrees import pytree
from kis_jax.core.editing.rules import Constrained, Ridge, positive


@pytree
@dataclasses.dataclass(frozen=True, eq=False)
class Anew(Ridge):
    """Least squares within a block, and nothing of the blocks before: MEMIT run again and again.

    Attributes:
      weight: as of `Ridge`.
    """

    name: str = dataclasses.field(default="anew", metadata={"static": True})
    remembers = False
    by_blocks = True


@pytree
@dataclasses.dataclass(frozen=True, eq=False)
class Shrinking(Constrained):
    """Each edit in what the keys before it have left of the space, and there by least squares.

    Attributes:
      tolerance: as of `Constrained`.
      weight: r, positive.
    """

    weight: Array = dataclasses.field(kw_only=True)
    name: str = dataclasses.field(default="shrinking", metadata={"static": True})

    def gain(self, own: Float[Array, " b"]) -> Float[Array, " b"]:
        """S / (r + s)."""
        return own / (self.weight + own)


def anew(weight: float | Float[Array, ""]) -> Anew:
    r"""MEMIT as it is run in sequence: each block in least squares against ordinary text alone.

    $D = (K^\top K + w C)^{-1} K^\top (V - K W)$ with W as the blocks before left it. Of one block
    it is `ridge(weight)`.

    Args:
      weight: w, positive.

    Returns:
      A rule for `Editor.init`.

    Raises:
      ValueError: if the weight is not one positive number.

    Examples:
      >>> anew(2.0).name, anew(2.0).remembers
      ('anew', False)

    Reference: Meng et al. 2023 (arXiv 2210.07229), eq. 14, without the keys of earlier batches.
    """
    return Anew(positive("weight", weight, None))


def shrinking(
    weight: float | Float[Array, ""],
    *,
    tolerance: float | Float[Array, ""] | None = None,
    dtype: DTypeLike = jnp.float32,
) -> Shrinking:
    r"""EvoEdit: the null space shrinks by each key that was written in it.

    $D = N k (k^\top N k + r)^{-1} R$, then $N \leftarrow N - q q^\top$ with $q = N k / |N k|$. In
    the space of C likewise. A key of which nothing is left is not edited; once
    that holds for all keys, the space has shrunk to nothing.

    Args:
      weight: r, positive.
      tolerance: the least share of a key's squared length that earlier ones must leave to it. None:
        the root of the machine epsilon.
      dtype: whose epsilon that is.

    Returns:
      A rule for `Editor.init` and `replay`, in a `NullSpace` EvoEdit's.

    Raises:
      ValueError: if the weight is not one positive number.

    Examples:
      >>> shrinking(0.5).name
      'shrinking'

    Reference: EvoEdit, as `docs/compose.md` builds it by hand; the update is its released code's.
    """
    return Shrinking(own_share(dtype, tolerance), weight=positive("weight", weight, None))
