"""The closed forms at one layer of a model: from keys, values and C to a ledger, in float64."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, Protocol, get_args

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from kis_jax.core.arrays.precision import HOST, Inverse
from kis_jax.core.editing.reach import reaching
from kis_jax.core.editing.replay import Asked, independent
from kis_jax.core.geometry.null_space import null_space
from kis_jax.core.geometry.spaces import Space
from kis_jax.passes.targets.settings import EditSettings, TargetSettings

Method = Literal["rome", "sequential", "constrained", "batch", "null-space", "finetune"]
METHODS: tuple[Method, ...] = get_args(Method)
Alias = Literal["emmet", "memit", "alphaedit"]
"""The names that the literature has for some of them."""

_ALIASES: dict[str, Method] = {
    "emmet": "constrained",
    "memit": "batch",
    "alphaedit": "null-space",
}


def method_names(methods: Iterable[Method]) -> dict[str, Method]:
    """By each name that some methods go by, the method."""
    known: dict[str, Method] = {str(method): method for method in methods}
    known.update({name: method for name, method in _ALIASES.items() if method in known})
    return known


OUTSIDE = "its key has no part in the directions that text leaves free"
AGAINST = (
    "its key has no share in the direction along which it would be written: it is zero, or nowhere "
    "else than in directions that were dropped of the second moment, or, of the original ROME, its "
    "prompt alone has a key that points away from their average over prefixes"
)
REPEATED = (
    "its key is, to rounding, a combination of those of earlier facts, such as one with the same "
    "subject; constrained edits cannot give it a value of its own"
)


def space_of(
    second_moment: ArrayLike,
    method: Method,
    settings: EditSettings,
    *,
    ridge: float = 0.0,
    inverse: Inverse = "auto",
) -> Space:
    """Factors a layer's second moment once, for the keys of any number of edits.

    Args:
      second_moment: C, `(d, d)`.
      method: "null-space" writes where text leaves directions free, all others by C^-1.
      settings: which directions are free.
      ridge: added to the diagonal of C.
      inverse: how C is inverted; see `Precision.whitener`.

    Raises:
      ValueError: if C cannot be inverted so, or ("null-space") leaves no direction free.
    """
    if method == "null-space":
        if settings.units == "model":
            return HOST.run(null_space, second_moment, share=settings.null_space)
        mean = float(np.trace(np.asarray(second_moment))) / len(np.asarray(second_moment))
        return HOST.run(null_space, second_moment, threshold=settings.null_space / mean)
    return HOST.whitener(second_moment, ridge=ridge, inverse=inverse)


def dropped_of(space: Space, method: Method) -> int:
    """How many directions were dropped of the second moment that a `space_of` was made from."""
    if method == "null-space":
        return 0
    return space.width - int(HOST.run(lambda whitening: whitening.rank, space))


def weight_of(
    method: Method, settings: EditSettings, space: Space, prompt_keys: np.ndarray
) -> float | None:
    """Of "batch", or the ridge of "null-space", as a number; the other methods have none.

    Args:
      method: of editing.
      settings: in units of the model: multiples of the mean of k C^-1 k, or k N k.
      space: of the method; see `space_of`.
      prompt_keys: of the facts, `(n, d)`; rows that are not finite are passed over.
    """
    said = {"batch": settings.weight, "null-space": settings.null_ridge}.get(method)
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
) -> Asked:
    """What is asked of a layer, NumPy float64.

    Args:
      kernel: before all edits, `(d, m)`.
      keys: `(n, d)`, with which values are read.
      values: `(n, m)`, keys @ kernel as it should be.
      space: of the layer; see `space_of`.
      written_along: `(n, d)`, other keys for the directions, as the original ROME has them.
    """
    along = keys if written_along is None else written_along
    return HOST.run(_asked, np.asarray(kernel), keys, np.asarray(values), space, along)


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


def _asked(kernel: Array, keys: Array, values: Array, space: Space, along: Array) -> Asked:
    return Asked(keys, space.solve(along), values - keys @ kernel)


def editable(asked: Asked, method: Method) -> list[str | None]:
    """For each fact why it cannot be edited along with those before it; None if it can."""
    own = np.sum(asked.keys * asked.solved, axis=1)
    empty = OUTSIDE if method == "null-space" else AGAINST
    reasons = [None if share > 0 else empty for share in own]
    if method == "constrained":
        for row in np.flatnonzero(~HOST.run(independent, asked)):
            reasons[row] = reasons[row] or REPEATED
    return reasons
