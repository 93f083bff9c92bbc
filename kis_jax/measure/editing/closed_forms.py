"""The closed forms at one layer of a model: from keys, values and C to a ledger, in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from kis_jax.core.host import float64_on_host
from kis_jax.core.null_space import null_space
from kis_jax.core.replay import Asked, independent
from kis_jax.core.whitening import whitener

Method = Literal["rome", "sequential", "constrained", "batch", "null-space", "finetune"]
METHODS: tuple[Method, ...] = get_args(Method)

_OUTSIDE = "its key has no part in the directions that text leaves free"
_AGAINST = (
    "its key has no share in the direction along which it would be written: it is zero, or, of the "
    "original ROME, its prompt alone has a key that points away from their average over prefixes"
)
_REPEATED = (
    "its key is, to rounding, a combination of those of earlier facts, such as one with the same "
    "subject; constrained edits cannot give it a value of its own"
)

Solver = Callable[[np.ndarray], np.ndarray]
"""Of keys `(n, d)`: the rows along which a layer is written, `(n, d)` float64."""


def layer_solver(
    second_moment: np.ndarray, method: Method, *, ridge: float = 0.0, threshold: float = 2e-2
) -> Solver:
    """Factors a layer's second moment once, for the keys of any number of edits.

    Args:
      second_moment: C, `(d, d)`.
      method: "null-space" solves for N k, all others for C^-1 k.
      ridge: added to the diagonal of C.
      threshold: of "null-space": eigenvalues up to this share of their mean count as null.

    Raises:
      ValueError: if C is not positive definite, or ("null-space") leaves no direction free.
    """
    with float64_on_host():
        c = jnp.asarray(second_moment, jnp.float64)
        if method == "null-space":
            projector = np.asarray(null_space(c, threshold=threshold))
            return lambda keys: np.asarray(keys, np.float64) @ projector
        factored = whitener(c, ridge=ridge)

    def solve(keys: np.ndarray) -> np.ndarray:
        with float64_on_host():
            return np.asarray(factored.solve(jnp.asarray(keys, jnp.float64)))

    return solve


def ask(
    kernel: ArrayLike,
    keys: np.ndarray,
    values: np.ndarray,
    solve: Solver,
    *,
    written_along: np.ndarray | None = None,
) -> Asked:
    """What is asked of a layer, NumPy float64.

    Args:
      kernel: before all edits, `(d, m)`.
      keys: `(n, d)`, with which values are read.
      values: `(n, m)`, keys @ kernel as it should be.
      solve: of the layer; see `layer_solver`.
      written_along: `(n, d)`, other keys for the directions, as the original ROME has them.
    """
    wide: Any = np.asarray(keys, np.float64)
    requested = np.asarray(values, np.float64) - wide @ np.asarray(kernel, np.float64)
    solved: Any = solve(wide if written_along is None else written_along)
    return Asked(wide, solved, requested)


def editable(asked: Asked, method: Method) -> list[str | None]:
    """For each fact why it cannot be edited along with those before it; None if it can."""
    own = np.sum(asked.keys * asked.solved, axis=1)
    empty = _OUTSIDE if method == "null-space" else _AGAINST
    reasons = [None if share > 0 else empty for share in own]
    if method == "constrained":
        with float64_on_host():
            alone = np.asarray(independent(jax.tree.map(jnp.asarray, asked)))
        for row in np.flatnonzero(~alone):
            reasons[row] = reasons[row] or _REPEATED
    return reasons
