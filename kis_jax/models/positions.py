"""Where tokens stand in their texts."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array


def positions_of(mask: Array) -> Array:
    """Each token's place among those of its text that the mask admits, `(b, t)` from 0."""
    return jnp.maximum(jnp.cumsum(mask.astype(jnp.int32), axis=1) - 1, 0)
