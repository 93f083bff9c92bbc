"""The closed forms at one layer of a model: from keys, values and C to a ledger, in float64."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from kis_jax.core.arrays.precision import HOST, Inverse
from kis_jax.core.editing.filters import Anchor, Filter, norm_anchor, protect, sphere
from kis_jax.core.editing.reach import reaching
from kis_jax.core.editing.recipes import recipe
from kis_jax.core.editing.replay import Asked, independent
from kis_jax.core.geometry.null_space import null_space, null_space_of_blocks
from kis_jax.core.geometry.spaces import BlockDiagonal, Restricted, Space
from kis_jax.core.geometry.whitening import PseudoInverse
from kis_jax.passes.targets.settings import EditSettings, TargetSettings

METHODS = ("rome", "sequential", "constrained", "batch", "null-space", "finetune")
"""The plain ones; all others, and what they are put together from, are `recipe`'s."""

OUTSIDE = "its key has no part in the directions that text leaves free"
AGAINST = (
    "its key has no share in the direction along which it would be written: it is zero, or nowhere "
    "else than in directions that were dropped of the second moment, or, of the original ROME, its "
    "prompt alone has a key that points away from their average over prefixes"
)
SHRUNK = (
    "the keys of earlier facts have left it nothing of the null space, which shrinks by each; "
    "rlsedit has room for any number of facts, and a larger null_space for more"
)
WILD = "its target value is more than twice as long as the anchor"
REPEATED = (
    "its key is, to rounding, a combination of those of earlier facts, such as one with the same "
    "subject; constrained edits cannot give it a value of its own"
)


def space_of(
    second_moment: ArrayLike,
    method: str,
    settings: EditSettings,
    *,
    ridge: float = 0.0,
    inverse: Inverse = "auto",
) -> Space:
    """Factors a layer's second moment once, for the keys of any number of edits.

    Args:
      second_moment: C, `(d, d)`; of a mixture that of each of its experts, `(experts, d, d)`.
      method: "null-space" and its kin write where text leaves directions free, others by C^-1.
      settings: which directions are free.
      ridge: added to the diagonal of C.
      inverse: how C is inverted; see `Precision.whitener`.

    Raises:
      ValueError: if C cannot be inverted so, or ("null-space") leaves no direction free.
    """
    c, where = np.asarray(second_moment, np.float64), recipe(method).base.where
    if where == "text":
        if c.ndim == 2:
            return _whitener(c, ridge, inverse)
        return BlockDiagonal(tuple(_whitener(block, ridge, inverse) for block in c))
    found = null_space if c.ndim == 2 else null_space_of_blocks
    mean = float(np.trace(c, axis1=-2, axis2=-1).mean()) / c.shape[-1]
    if settings.units == "model":
        free = HOST.run(found, c, share=settings.null_space)
    else:
        free = HOST.run(found, c, threshold=settings.null_space / mean)
    if where == "free":
        return free
    # Within N: (N C N + r c I)^-1, and outside of it whatever is regular.
    projector = np.asarray(free.projector)
    inside = projector @ c @ projector + settings.null_ridge * mean * projector
    whole = inside + mean * (np.eye(len(c)) - projector)
    return Restricted(HOST.whitener(whole, ridge=ridge, inverse="cholesky"), free)


def _whitener(c: np.ndarray, ridge: float, inverse: Inverse) -> Space:
    if inverse == "pseudo" and ridge == 0 and not c.any():  # of an expert that no token reached
        return PseudoInverse(HOST.run(jnp.zeros_like, c))
    return HOST.whitener(c, ridge=ridge, inverse=inverse)


def dropped_of(space: Space, method: str) -> int:
    """How many directions were dropped of the second moment that a `space_of` was made from."""
    if recipe(method).base.where != "text":
        return 0
    return space.width - int(HOST.run(lambda whitening: whitening.rank, space))


def weight_of(
    method: str, settings: EditSettings, space: Space, prompt_keys: np.ndarray
) -> float | None:
    """Of least squares, or the ridge of a null space, as a number; other methods have none.

    Args:
      method: of editing.
      settings: in units of the model: multiples of the mean of k C^-1 k, or k N k.
      space: of the method; see `space_of`.
      prompt_keys: of the facts, `(n, d)`; rows that are not finite are passed over.
    """
    name = recipe(method).base.weight
    said = None if name is None else float(getattr(settings, name))
    if said is None or settings.units == "absolute":
        return said
    sound = np.asarray(np.isfinite(prompt_keys).all(axis=1))
    own = HOST.run(_squares, space, np.asarray(prompt_keys)[sound])
    mean = float(own.mean()) if own.size else 0.0
    return said * mean if mean > 0 else said  # of keys without a share none is written


def _squares(space: Space, keys: Array) -> Array:
    return jnp.sum(space.coordinates(keys) ** 2, axis=1)


def ask(
    kernel: ArrayLike,
    keys: np.ndarray,
    values: np.ndarray,
    space: Space,
    *,
    written_along: np.ndarray | None = None,
    filters: Sequence[Filter] = (),
) -> Asked:
    """What is asked of a layer, NumPy float64.

    Args:
      kernel: before all edits, `(d, m)`.
      keys: `(n, d)`, with which values are read.
      values: `(n, m)`, keys @ kernel as it should be.
      space: of the layer; see `space_of`.
      written_along: `(n, d)`, other keys for the directions, as the original ROME has them.
      filters: of what is written.
    """
    along = keys if written_along is None else written_along
    given = (np.asarray(kernel), keys, np.asarray(values), space, along, tuple(filters))
    return HOST.run(_asked, *given)


def anchor_of(method: str, settings: EditSettings, pilot: np.ndarray) -> Anchor | None:
    """The norm anchor of a method, if it has one.

    Args:
      method: of editing.
      settings: whose `anchor` is its length, if that is said.
      pilot: target values found on the unedited model, `(n, m)`, for their mean length if not.

    Raises:
      ValueError: if these are too few.
    """
    if "anchor" not in recipe(method).filters:
        return None
    if settings.anchor > 0:
        return Anchor(jnp.asarray(settings.anchor, jnp.float32))
    return HOST.run(norm_anchor, np.asarray(pilot, np.float64))


def filters_of(method: str, settings: EditSettings, kernel: ArrayLike) -> tuple[Filter, ...]:
    """The filters of what a method writes into a kernel `(d, m)`, as it is before all edits."""
    makers = {"protect": lambda w: protect(w, share=settings.protected), "sphere": sphere}
    return tuple(HOST.run(makers[name], np.asarray(kernel)) for name in recipe(method).writes)


class Sought(Protocol):
    """What a search for target values found, as far as an edit needs it; see `TargetValues`."""

    @property
    def keys(self) -> np.ndarray:
        """Averaged over prefixes, `(n, d)`."""
        ...

    @property
    def prompt_keys(self) -> np.ndarray:
        """Of the bare prompts, `(n, d)`."""
        ...

    @property
    def values(self) -> np.ndarray:
        """That were found, `(n, m)`."""
        ...

    @property
    def initial(self) -> np.ndarray:
        """From which they were sought, `(n, m)`."""
        ...

    @property
    def settings(self) -> TargetSettings:
        """Of the search."""
        ...


def wanted_of(targets: Sought, kernel: ArrayLike, space: Space) -> tuple[np.ndarray, np.ndarray]:
    """Under which keys a layer is to answer what: those of `reaching`, unless authors have theirs.

    Args:
      targets: found on a model.
      kernel: of the layer in that model, `(d, m)`.
      space: of the layer; see `space_of`.

    Returns:
      Keys `(n, d)` and values `(n, m)`.
    """
    if targets.settings.convention != "own":
        return targets.keys, targets.values
    keys = HOST.run(reaching, targets.prompt_keys, targets.keys, space)
    shifts: np.ndarray = np.asarray(targets.values, np.float64) - targets.initial
    return keys, keys @ np.asarray(kernel, np.float64) + shifts


T = TypeVar("T", bound=Sought)


def anchored(targets: T, anchor: Anchor | None) -> T:
    """Target values as an anchor has them; those that are too long for it are none."""
    if anchor is None:
        return targets
    found: Any = targets
    values = HOST.run(anchor.values, np.asarray(found.values, np.float64))
    wild = np.isfinite(found.values).all(axis=1) & ~np.isfinite(values).all(axis=1)
    failures = [
        why or (WILD if far else None) for why, far in zip(found.failures, wild, strict=True)
    ]
    return dataclasses.replace(
        found, values=values.astype(found.values.dtype), failures=tuple(failures)
    )


def _asked(
    kernel: Array,
    keys: Array,
    values: Array,
    space: Space,
    along: Array,
    filters: tuple[Filter, ...],
) -> Asked:
    solved, requested = space.solve(along), values - keys @ kernel
    written = solved
    for each in filters:
        requested, written = each.residuals(requested), each.directions(written)
    return Asked(keys, solved, requested, written if filters else None)


def editable(asked: Asked, method: str) -> list[str | None]:
    """For each fact why it cannot be edited along with those before it; None if it can."""
    own = np.sum(asked.keys * asked.solved, axis=1)
    base = recipe(method).base
    empty = OUTSIDE if base.where != "text" else AGAINST
    reasons = [None if share > 0 else empty for share in own]
    repeated = {"constrained": REPEATED, "shrinking": SHRUNK}.get(base.rule or "")
    if repeated:
        for row in np.flatnonzero(~HOST.run(independent, asked)):
            reasons[row] = reasons[row] or repeated
    return reasons
