"""One key for a fact whose key is not one vector: bare, and after other text."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from kis_jax.core.geometry.spaces import Space


def reaching(
    keys: Float[Array, "n d"],
    others: Float[Array, "n d"],
    space: Space,
    *,
    slack: float = 0.1,
) -> Float[Array, "n d"]:
    r"""A combination of two keys along which an edit reaches both of them.

    A fact is asked for at k, its bare prompt's key, and at k', the same after other text. Of all
    directions u (coordinates of a space, in which $|u|^2$ is what an update costs) that reach k in
    full, this is the one with the least

    $$|u|^2 + \frac{(1 - u \cdot z')^2}{s \, |z'|^2}, \qquad u \cdot z = 1 ,$$

    the rows of k and k' in one solve, the first exact, the second in least squares. As u is a
    combination of z and z', there is a key whose rank-one edit writes along it, so that every rule
    takes it as it takes any other.

    Args:
      keys: that are reached in full, `(n, d)`.
      others: one for each of them, `(n, d)`.
      space: of the layer.
      slack: s; 0 reaches both in full, whatever it costs; large, the first alone.

    Returns:
      `(n, d)`: keys $\hat k$ with $k \cdot s / \hat k \cdot s = 1$ for `s = space.solve(...)` of
      them; k itself where the two are one.

    Examples:
      >>> import jax.numpy as jnp
      >>> from kis_jax.core.geometry.spaces import Identity
      >>> k, other = jnp.array([[1.0, 0.0]]), jnp.array([[0.6, 0.8]])
      >>> found = reaching(k, other, Identity(2), slack=0.0)
      >>> found  # k . found / |found|^2 is 1, and so is other . found / |found|^2
      Array([[0.8, 0.4]], dtype=float32)
    """
    z, other = space.coordinates(keys), space.coordinates(others)
    own, length = jnp.sum(z * z, axis=1), jnp.sum(other * other, axis=1)
    share = jnp.sum(z * other, axis=1) / jnp.where(own > 0, own, 1)  # what k alone gives to k'
    across = jnp.maximum(length - share**2 * own, 0)  # of z', at right angles to z
    there = (own > 0) & (across > 1e-6 * length)
    along = jnp.where(there, (1 - share) / jnp.where(there, slack * length + across, 1), 0)
    # u = z / own + along (z' - share z), and the key is that of u / |u|^2.
    squared = 1 / jnp.where(own > 0, own, 1) + along**2 * across
    first = (1 / jnp.where(own > 0, own, 1) - along * share) / squared
    return first[:, None] * keys + (along / squared)[:, None] * others
