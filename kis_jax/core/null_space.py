"""The directions of keys that ordinary text leaves free."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

from kis_jax.core.checks import known_to_hold
from kis_jax.core.products import matmul
from kis_jax.core.second_moment import SecondMoment


def null_space(second_moment: Array | SecondMoment, *, threshold: float = 2e-2) -> Array:
    r"""Projector on the eigenvectors of C with eigenvalues below a share of their mean.

    The threshold is relative, to $\mathrm{tr}(C) / d$: measuring C in other units changes nothing.
    (AlphaEdit's own, 2e-2 too, is absolute, and so means something else for every layer.)

    Args:
      second_moment: C, `(d, d)`, symmetric; or a `SecondMoment`.
      threshold: eigenvalues up to this share of the mean eigenvalue count as null.

    Returns:
      N, `(d, d)`, symmetric and idempotent, in the dtype of C. `jnp.trace(N)` is the number of
      free directions.

    Raises:
      ValueError: if C is not square, not finite, or leaves no direction free.

    Example:
      >>> import jax.numpy as jnp
      >>> null_space(jnp.diag(jnp.array([5.0, 0.01])))
      Array([[0., 0.],
             [0., 1.]], dtype=float32)

    Reference: Fang et al. 2025 (arXiv 2410.02355), section 3.1.
    """
    c = second_moment.mean if isinstance(second_moment, SecondMoment) else second_moment
    c = jnp.asarray(c)
    if c.ndim != 2 or c.shape[0] != c.shape[1]:
        raise ValueError(f"second_moment: expected shape (d, d), found {c.shape}")
    if not known_to_hold(jnp.all(jnp.isfinite(c))):
        raise ValueError("second_moment: expected finite entries, found NaN or infinity")
    eigenvalues, vectors = jnp.linalg.eigh(c)
    free = eigenvalues <= threshold * jnp.mean(eigenvalues)
    if not known_to_hold(jnp.any(free)):
        smallest = float(eigenvalues[0] / jnp.mean(eigenvalues))
        raise ValueError(
            f"second_moment: expected eigenvalues below {threshold:g} of their mean, found none "
            f"under {smallest:.3g}; raise the threshold"
        )
    vectors = jnp.where(free, vectors, 0)
    return matmul(vectors, vectors.T)
