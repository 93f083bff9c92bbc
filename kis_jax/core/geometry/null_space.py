"""The directions of keys that ordinary text leaves free."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from kis_jax.core.arrays.checks import holds_or_traced
from kis_jax.core.arrays.products import matmul
from kis_jax.core.geometry.second_moment import SecondMoment, as_matrix
from kis_jax.core.geometry.spaces import BlockDiagonal, NullSpace


def null_space(
    second_moment: Float[Array, "d d"] | SecondMoment,
    *,
    threshold: float = 2e-2,
    share: float | None = None,
) -> NullSpace:
    r"""The eigenvectors of C with eigenvalues below a share of their mean, or of least energy.

    The threshold is relative, to $\mathrm{tr}(C) / d$: measuring C in other units changes nothing.
    (AlphaEdit's own, 2e-2 too, is absolute, and so means something else for every layer.)

    Its gradient is that of the eigenvectors, which are not differentiable where eigenvalues repeat.

    Args:
      second_moment: C, `(d, d)`, symmetric; or a `SecondMoment`.
      threshold: eigenvalues up to this share of the mean eigenvalue count as null.
      share: in its place, the most of tr(C), the energy of ordinary text, that the directions hold
        together; as many are taken as keep to it, those of the least eigenvalues.

    Returns:
      A `NullSpace`, in the dtype of C: a space of keys, and wherever an array is expected the
      projector N, `(d, d)`. Its `rank` is the number of free directions.

    Raises:
      ValueError: if C is not square, not finite, or leaves no direction free (under `jit`: NaN).

    Examples:
      >>> import jax.numpy as jnp
      >>> null_space(jnp.diag(jnp.array([5.0, 0.01]))).projector
      Array([[0., 0.],
             [0., 1.]], dtype=float32)

    Reference: Fang et al. 2025 (arXiv 2410.02355), section 3.1.
    """
    eigenvalues, vectors = jnp.linalg.eigh(as_matrix(second_moment))
    return _projector(vectors, _free(eigenvalues, threshold, share))


def null_space_of_blocks(
    second_moments: Float[Array, "e d d"], *, threshold: float = 2e-2, share: float | None = None
) -> BlockDiagonal:
    """The same of a C that is block-diagonal: of a mixture, its experts' one below the other.

    Directions of all blocks are weighed against one another: a block that text seldom reaches is
    free in all of them, and one that holds most of text's energy may be free in none.

    Args:
      second_moments: the blocks, each symmetric.
      threshold: see `null_space`; of the mean over all blocks.
      share: likewise; of the energy in all blocks.

    Raises:
      ValueError: as `null_space`.

    Examples:
      >>> import jax.numpy as jnp
      >>> found = null_space_of_blocks(jnp.stack([jnp.diag(jnp.array([5.0, 0.01])), jnp.eye(2)]))
      >>> [int(block.rank) for block in found.blocks]
      [1, 0]
    """
    pairs = [jnp.linalg.eigh(as_matrix(c)) for c in second_moments]
    free = _free(jnp.concatenate([values for values, _ in pairs]), threshold, share)
    parts = jnp.split(free, len(pairs))
    blocks = [_projector(vectors, part) for (_, vectors), part in zip(pairs, parts, strict=True)]
    return BlockDiagonal(tuple(blocks))


def _free(eigenvalues: Array, threshold: float, share: float | None) -> Array:
    """Which of some eigenvalues count as null; NaN for all, under `jit`, where none does."""
    if share is None:
        free = eigenvalues <= threshold * jnp.mean(eigenvalues)
    else:  # rounding may leave the least of them a little below 0
        order = jnp.argsort(eigenvalues, stable=True)
        held = jnp.cumsum(jnp.maximum(eigenvalues[order], 0)) <= share * jnp.sum(eigenvalues)
        free = jnp.zeros_like(held).at[order].set(held)
    if not holds_or_traced(jnp.mean(eigenvalues) > 0):
        raise ValueError("second_moment: expected a positive trace, found none; check its sign")
    if not holds_or_traced(jnp.any(free)):
        smallest = float(jnp.min(eigenvalues) / jnp.mean(eigenvalues))
        if share is not None:
            raise ValueError(
                f"second_moment: expected a direction with less than {share:g} of the trace, found "
                f"none under {smallest / len(eigenvalues):.3g}; raise the share"
            )
        raise ValueError(
            f"second_moment: expected eigenvalues below {threshold:g} of their mean, found none "
            f"under {smallest:.3g}; raise the threshold"
        )
    return jnp.where(jnp.any(free), free.astype(eigenvalues.dtype), jnp.nan)


def _projector(vectors: Array, free: Array) -> NullSpace:
    vectors = jnp.where(free == 1, vectors, free)
    return NullSpace(matmul(vectors, vectors.T))
