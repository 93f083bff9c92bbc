"""The largest eigenvalue of a symmetric operator that is only known by its products."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike


def largest_eigenvalue(
    matvec: Callable[[Array], Array], d: int, dtype: DTypeLike, *, steps: int = 64
) -> Array:
    """Largest eigenvalue of a positive semi-definite operator, by Lanczos' iteration.

    Full reorthogonalisation, from a fixed pseudo-random start. The estimate is never above the
    true value (up to rounding), and exact once `steps` reaches `d`.

    Args:
      matvec: the operator, `(d,) -> (d,)`.
      d: its size.
      dtype: dtype of the vectors.
      steps: number of products.

    Returns:
      The estimate, `()`.

    Examples:
      >>> import jax.numpy as jnp
      >>> float(largest_eigenvalue(lambda v: jnp.array([1.0, 5.0, 2.0]) * v, 3, jnp.float32))
      5.0...

    Reference: Golub and Van Loan, Matrix Computations, 4th ed., section 10.1.
    """
    steps = min(steps, d)
    start = jax.random.normal(jax.random.key(0), (d,), dtype)

    def step(carry, _):
        basis, index, vector = carry
        basis = basis.at[index].set(vector)
        image = matvec(vector)
        diagonal = jnp.vdot(vector, image)
        for _ in range(2):  # twice is enough (Kahan): the basis stays orthogonal to rounding
            image = image - basis.T @ (basis @ image)
        norm = jnp.linalg.norm(image)
        # A vanishing norm means that the basis spans an invariant subspace: go on with zeros,
        # which add eigenvalues 0 and cannot be the largest.
        vanished = norm <= 10 * jnp.finfo(dtype).eps * jnp.abs(diagonal)
        norm = jnp.where(vanished, 0, norm)
        following = jnp.where(vanished, 0, image / jnp.where(vanished, 1, norm))
        return (basis, index + 1, following), (diagonal, norm)

    with jax.default_matmul_precision("highest"):
        # Zeros of an image: within `shard_map` a carry varies over the mesh as the operator does.
        zeros = jnp.zeros_like(matvec(start))
        start = start / jnp.linalg.norm(start) + zeros
        carry = (jnp.broadcast_to(zeros, (steps, d)), 0, start)
        _, (diagonal, off_diagonal) = jax.lax.scan(step, carry, length=steps)
        off_diagonal = off_diagonal[:-1]
        tridiagonal = jnp.diag(diagonal) + jnp.diag(off_diagonal, 1) + jnp.diag(off_diagonal, -1)
        return jnp.linalg.eigvalsh(tridiagonal)[-1]
