"""How far a second moment, and its inverse, can be trusted."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from kis_jax.core.arrays.products import inner
from kis_jax.core.geometry.second_moment import SecondMoment, as_matrix
from kis_jax.core.geometry.spaces import Space, as_space


def effective_rank(second_moment: Float[Array, "d d"] | SecondMoment) -> Float[Array, ""]:
    r"""Number of directions that keys really use: the participation ratio of C's eigenvalues.

    $(\sum \lambda)^2 / \sum \lambda^2 = \mathrm{tr}(C)^2 / |C|_F^2$: d for a multiple of the
    identity, 1 if all keys are parallel. Needs no eigenvalues.

    Args:
      second_moment: C, `(d, d)`, symmetric; or a `SecondMoment`.

    Returns:
      `()`, between 1 and d.

    Raises:
      ValueError: if C is not square.

    Examples:
      >>> import jax.numpy as jnp
      >>> float(effective_rank(jnp.diag(jnp.array([2.0, 2.0, 0.0]))))
      2.0
    """
    c = as_matrix(second_moment)
    scaled = c / jnp.trace(c)
    return 1 / jnp.sum(scaled * scaled)


def inverse_residual(
    second_moment: Float[Array, "d d"] | SecondMoment, whitener: Space
) -> Float[Array, ""]:
    r"""How far the whitener's inverse X is from one of C: $|C X - I|_F / \sqrt d$, estimated.

    In units in which C has a unit diagonal, so that those of the neurons do not matter. From
    sixteen random vectors, at the cost of as many products with C; within some tens of per cent.
    The square root of d makes it the error of a single vector. A ridge, or directions dropped by
    "eigh", count as error: X is then the inverse of something else.

    Args:
      second_moment: C, `(d, d)`; or a `SecondMoment`.
      whitener: made from it.

    Returns:
      `()`, for a sound inverse not far above the condition number of the scaled C times the
      machine epsilon.

    Raises:
      ValueError: if C is not of the whitener's width.

    Examples:
      >>> import jax.numpy as jnp
      >>> from kis_jax.core.geometry.whitening import whitener
      >>> c = jnp.array([[2.0, 1.0], [1.0, 2.0]])
      >>> bool(inverse_residual(c, whitener(c)) < 1e-6)
      True
    """
    c = as_matrix(second_moment)
    d = as_space("whitener", whitener).width
    if c.shape != (d, d):
        raise ValueError(f"second_moment: expected shape {(d, d)}, the whitener's, found {c.shape}")
    scale = jnp.sqrt(jnp.diagonal(c))
    probes = jax.random.normal(jax.random.key(0), (16, d), c.dtype)
    solved = whitener.solve(probes * scale[None]).astype(c.dtype)
    images = inner(solved, c, extended=whitener.extended) / scale[None]
    return jnp.linalg.norm(images - probes) / jnp.linalg.norm(probes)
