"""The closed forms at one layer of a model: from keys, values and C to a ledger, in float64."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, get_args

import numpy as np
from jax import Array
from jax.typing import ArrayLike

from kis_jax.core.arrays.precision import HOST, Inverse
from kis_jax.core.editing.replay import Asked, independent
from kis_jax.core.geometry.null_space import null_space
from kis_jax.core.geometry.spaces import Space
from kis_jax.passes.targets.settings import EditSettings

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
    *,
    ridge: float = 0.0,
    inverse: Inverse = "auto",
    threshold: float = 2e-2,
) -> Space:
    """Factors a layer's second moment once, for the keys of any number of edits.

    Args:
      second_moment: C, `(d, d)`.
      method: "null-space" writes where text leaves directions free, all others by C^-1.
      ridge: added to the diagonal of C.
      inverse: how C is inverted; see `Precision.whitener`.
      threshold: of "null-space": eigenvalues up to this share of their mean count as null.

    Raises:
      ValueError: if C cannot be inverted so, or ("null-space") leaves no direction free.
    """
    if method == "null-space":
        return HOST.run(null_space, second_moment, threshold=threshold)
    return HOST.whitener(second_moment, ridge=ridge, inverse=inverse)


def dropped_of(space: Space, method: Method) -> int:
    """How many directions were dropped of the second moment that a `space_of` was made from."""
    if method == "null-space":
        return 0
    return space.width - int(HOST.run(lambda whitening: whitening.rank, space))


def weight_of(method: Method, settings: EditSettings) -> float | None:
    """Of "batch", or the ridge of "null-space"; the other methods have none."""
    return {"batch": settings.batch_weight, "null-space": settings.null_ridge}.get(method)


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
