"""Spaces: coordinates of keys in which the cost of an update is its squared length."""

from __future__ import annotations

import abc
import dataclasses
from typing import Any

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Float, Int

from kis_jax.core.arrays.checks import as_rows
from kis_jax.core.arrays.products import matmul
from kis_jax.core.arrays.pytrees import pytree


class Space(abc.ABC):
    r"""A map of keys k to coordinates z, in which an edit of a key is made along z.

    Every closed form is regression in such coordinates; a space says what an update costs, a rule
    (`kis_jax.core.editing.rules`) what becomes of the edits before. With coordinates
    $z = A^\top k$ the space stands for the matrix $A A^\top$: $C^{-1}$ of a `Whitener`, N of a
    `NullSpace`. Spaces are pytrees; eager or traced, their arrays have one shape.

    To make another, give `coordinates`, `directions`, `width`, `dtype` and `rank`.

    Attributes:
      name: of the kind; static, and of no other kind, as for `kis_jax.core.editing.rules.Rule`.
    """

    name: str

    @abc.abstractmethod
    def coordinates(self, keys: Float[ArrayLike, "n d"]) -> Float[Array, "n r"]:
        """Of keys, `(n, d)` to `(n, r)`; r is the same for all keys, at most d."""

    @abc.abstractmethod
    def directions(self, coordinates: Float[Array, "n r"]) -> Float[Array, "n d"]:
        """The rows A z of coordinates z, `(n, r)` to `(n, d)`."""

    @property
    @abc.abstractmethod
    def width(self) -> int:
        """Of the keys, d."""

    @property
    @abc.abstractmethod
    def dtype(self) -> Any:
        """Of coordinates and directions."""

    @property
    @abc.abstractmethod
    def rank(self) -> Int[Array, ""]:
        """Number of directions in which keys can differ, `()`; at most the columns of z."""

    @property
    def extended(self) -> bool:
        """Whether inner products deserve more digits than their float32 factors have."""
        return False

    def whiten(self, keys: Float[ArrayLike, "n d"]) -> Float[Array, "n r"]:
        """The same as `coordinates`, by the name that it has for a `Whitener`."""
        return self.coordinates(keys)

    def solve(self, keys: Float[ArrayLike, "n d"]) -> Float[Array, "n d"]:
        r"""Rows $A A^\top k$, `(n, d)` to `(n, d)`: the directions of edits, before scaling."""
        return self.directions(self.coordinates(keys))


def as_space(name: str, space: object) -> Space:
    """The argument, if it is a space.

    Raises:
      ValueError: if it is a matrix, a `SecondMoment` or anything else.
    """
    if isinstance(space, Space):
        return space
    shape = f" of shape {found}" if (found := getattr(space, "shape", None)) is not None else ""
    raise ValueError(
        f"{name}: expected a space such as a Whitener, found {type(space).__name__}{shape}; factor "
        "the second moment first, kis.whitener(second_moment), or pass kis.Identity(d)"
    )


@pytree
@dataclasses.dataclass(frozen=True, eq=False)
class Identity(Space):
    """Keys as they are: an update costs its squared length, whatever text there is.

    Attributes:
      size: d, the width of the keys.
      real: dtype of the computation.
    """

    size: int = dataclasses.field(metadata={"static": True})
    real: DTypeLike = dataclasses.field(default=jnp.float32, metadata={"static": True})
    name: str = dataclasses.field(default="identity", metadata={"static": True})

    def coordinates(self, keys: Float[ArrayLike, "n d"]) -> Float[Array, "n d"]:
        """The keys."""
        return as_rows("keys", keys, self.width).astype(self.dtype)

    def directions(self, coordinates: Float[Array, "n d"]) -> Float[Array, "n d"]:
        """The coordinates."""
        return coordinates

    @property
    def width(self) -> int:
        """Of the keys, d."""
        return self.size

    @property
    def dtype(self) -> Any:
        """Of the computation."""
        return jnp.dtype(self.real)

    @property
    def rank(self) -> Int[Array, ""]:
        """All of them, d."""
        return jnp.asarray(self.size, jnp.int32)


@pytree
@dataclasses.dataclass(frozen=True, eq=False)
class NullSpace(Space):
    r"""Directions that ordinary text leaves free: the space of AlphaEdit. Made by `null_space`.

    Coordinates are projected keys, $z = N k$. Wherever an array is expected, it is N.

    Attributes:
      projector: N, `(d, d)`, symmetric and idempotent.
    """

    projector: Array
    name: str = dataclasses.field(default="null space", metadata={"static": True})

    def coordinates(self, keys: Float[ArrayLike, "n d"]) -> Float[Array, "n d"]:
        """N k, `(n, d)` to `(n, d)`."""
        return matmul(as_rows("keys", keys, self.width).astype(self.dtype), self.projector)

    def directions(self, coordinates: Float[Array, "n d"]) -> Float[Array, "n d"]:
        """The coordinates: N leaves them where they are."""
        return coordinates

    @property
    def width(self) -> int:
        """Of the keys, d."""
        return self.projector.shape[-1]

    @property
    def dtype(self) -> Any:
        """Of N."""
        return self.projector.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Of N."""
        return self.projector.shape

    @property
    def rank(self) -> Int[Array, "*layers"]:
        """The number of free directions, the trace of N."""
        return jnp.round(jnp.trace(self.projector, axis1=-2, axis2=-1)).astype(jnp.int32)

    def __jax_array__(self) -> Float[Array, "*layers d d"]:
        """N."""
        return self.projector

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        """N, in NumPy."""
        return self.projector.__array__(dtype)


@pytree
@dataclasses.dataclass(frozen=True, eq=False)
class Restricted(Space):
    r"""A space within the directions of a projector: $N C^{-1} N$, if the space is that of C.

    Edits write in free directions alone, and among these where ordinary text is least.

    Attributes:
      space: any.
      within: a `NullSpace` of keys of the same width.
    """

    space: Space
    within: NullSpace
    name: str = dataclasses.field(default="restricted", metadata={"static": True})

    def coordinates(self, keys: Float[ArrayLike, "n d"]) -> Float[Array, "n r"]:
        """Of projected keys."""
        return self.space.coordinates(self.within.coordinates(keys))

    def directions(self, coordinates: Float[Array, "n r"]) -> Float[Array, "n d"]:
        """Those of the space, projected."""
        return self.within.coordinates(self.space.directions(coordinates))

    @property
    def width(self) -> int:
        """Of the keys, d."""
        return self.within.width

    @property
    def dtype(self) -> Any:
        """Of the space."""
        return self.space.dtype

    @property
    def extended(self) -> bool:
        """As the space."""
        return self.space.extended

    @property
    def rank(self) -> Int[Array, "*layers"]:
        """The number of free directions, where the space has all of them."""
        return jnp.minimum(self.within.rank, self.space.rank)


@pytree
@dataclasses.dataclass(frozen=True, eq=False)
class BlockDiagonal(Space):
    r"""Several memories one below the other, each with a space of its own: a mixture's experts.

    Rows are `kis_jax.core.geometry.routed.concatenated` keys. The space stands for a block-diagonal
    matrix, such as $C^{-1}$ where the blocks of C between two experts are left out.

    Attributes:
      blocks: of each memory, in their order; of keys of one width.
    """

    blocks: tuple[Space, ...]
    name: str = dataclasses.field(default="block diagonal", metadata={"static": True})

    def coordinates(self, keys: Float[ArrayLike, "n d"]) -> Float[Array, "n r"]:
        """Those of each block's keys, side by side."""
        rows = as_rows("keys", keys, self.width)
        parts = jnp.split(rows, len(self.blocks), axis=1)
        made = [block.coordinates(part) for block, part in zip(self.blocks, parts, strict=True)]
        return jnp.concatenate(made, axis=1)

    def directions(self, coordinates: Float[Array, "n r"]) -> Float[Array, "n d"]:
        """Those of each block, side by side."""
        parts = jnp.split(coordinates, len(self.blocks), axis=1)
        made = [block.directions(part) for block, part in zip(self.blocks, parts, strict=True)]
        return jnp.concatenate(made, axis=1)

    @property
    def width(self) -> int:
        """Of the keys: of all blocks together."""
        return sum(block.width for block in self.blocks)

    @property
    def dtype(self) -> Any:
        """Of the blocks."""
        return self.blocks[0].dtype

    @property
    def extended(self) -> bool:
        """As the blocks."""
        return any(block.extended for block in self.blocks)

    @property
    def rank(self) -> Int[Array, "*layers"]:
        """Of all blocks together."""
        return jnp.sum(jnp.stack([block.rank for block in self.blocks]), axis=0)
