"""The rules by the names of closed forms."""

from __future__ import annotations

from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float

from kis_jax.core.arrays.orthonormal import own_share
from kis_jax.core.editing.lasting import Anew, Shrinking
from kis_jax.core.editing.rules import (
    ALIASES,
    TOGETHER,
    Constrained,
    Ridge,
    Rule,
    Sequential,
    positive,
)

_WITHOUT = ("sequential", "constrained")
_NAMES = (*_WITHOUT, *TOGETHER, "shrinking", "anew")


def named_rule(
    name: str,
    dtype: DTypeLike,
    *,
    weight: float | Float[Array, ""] | None = None,
    tolerance: float | Float[Array, ""] | None = None,
) -> Rule:
    """The rule of a closed form: "sequential", "constrained", "batch", "null_space" or the like.

    Those that there are: these, "shrinking" and "anew".

    Raises:
      ValueError: if there is none of the name, or a weight is missing, out of place or not
        positive.
    """
    name = ALIASES.get(name, name)
    if name not in _NAMES:
        raise ValueError(f"rule: expected one of {', '.join(_NAMES)}, found {name!r}")
    if (weight is not None) == (name in _WITHOUT):
        none = "none" if name in _WITHOUT else "a positive one"
        raise ValueError(f"weight: expected {none} for {name}, found {weight}")
    if weight is not None:
        weight = positive("weight", weight, dtype)
        if name == "shrinking":
            return Shrinking(own_share(dtype, tolerance), weight=weight)
        return Anew(weight) if name == "anew" else Ridge(weight)
    return Sequential() if name == "sequential" else Constrained(own_share(dtype, tolerance))
