"""The keys of a mixture of experts: those of the experts that a token is routed to."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
from jax import Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Routed:
    """Keys of those experts alone that a token is routed to.

    Attributes:
      keys: `(..., k, d)`, of the k experts of each token.
      experts: which these are, `(..., k)` int; each token's differ.
      gates: what their values are multiplied by, `(..., k)`.
    """

    keys: Array
    experts: Array
    gates: Array

    def __getitem__(self, index: Any) -> Routed:
        """Of some tokens."""
        return jax.tree.map(lambda array: array[index], self)
