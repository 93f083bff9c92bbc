"""The inverse of a second moment that is too large to factor, from products with it alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from kis_jax.core.checks import as_rows, known_to_hold


class Solved(NamedTuple):
    """Solutions of a linear system, one a row, and how good they are.

    Attributes:
      rows: `(n, d)`.
      residual: `(n,)`, norms of what is left of each right-hand side, relative to it; as the
        iteration knows them, which is within rounding of the truth.
      steps: `()` int, products with the matrix.
    """

    rows: Array
    residual: Array
    steps: Array


def solve_iteratively(
    product: Callable[[Array], Array],
    keys: Array,
    diagonal: Array,
    *,
    tolerance: float = 1e-6,
    max_steps: int = 10_000,
) -> Solved:
    r"""Rows $C^{-1} k$ by conjugate gradients, for a C that no device can factor, or hold.

    All rows go through one product with C a step, which may be anything: a matrix sharded over
    devices, one read from disk, or a pass over stored keys, `lambda x: (x @ keys.T) @ keys / n`.
    The preconditioner is the diagonal, that is, C is scaled to unit diagonal. The number of steps
    grows with the root of the condition number that is left.

    Args:
      product: `(n, d) -> (n, d)`, rows times C; symmetric and positive definite.
      keys: `(n, d)`.
      diagonal: of C, `(d,)`, positive.
      tolerance: norm of the residual of each row, relative to that of the key, both scaled.
      max_steps: the most products.

    Returns:
      `Solved`, in the dtype of `keys`.

    Raises:
      ValueError: if shapes do not agree, or (not under `jit`) after `max_steps` without reaching
        the tolerance.

    Example:
      >>> import jax.numpy as jnp
      >>> c = jnp.array([[2.0, 1.0], [1.0, 2.0]])
      >>> solve_iteratively(lambda x: x @ c, jnp.array([[3.0, 0.0]]), jnp.diagonal(c)).rows.round(4)
      Array([[ 2., -1.]], dtype=float32)

    Reference: Hestenes and Stiefel 1952, J. Res. NBS 49; Golub and Van Loan, Matrix Computations,
    4th ed., section 11.5.
    """
    keys = as_rows("keys", keys, None)
    if diagonal.shape != keys.shape[1:]:
        raise ValueError(
            f"diagonal: expected shape {keys.shape[1:]}, that of C, found {diagonal.shape}"
        )
    scale = jax.lax.rsqrt(diagonal.astype(keys.dtype))
    goal = keys * scale
    bound = tolerance**2 * _squares(goal)

    def unfinished(state: tuple[Array, ...]) -> Array:
        *_, squares, steps = state
        return jnp.any(squares > bound) & (steps < max_steps)

    def step(state: tuple[Array, ...]) -> tuple[Array, ...]:
        solution, residual, direction, squares, steps = state
        image = product(direction * scale) * scale
        curvature = jnp.sum(direction * image, axis=1, keepdims=True)
        active = squares > bound
        length = jnp.where(active, squares / jnp.where(active, curvature, 1), 0)
        residual = residual - length * image
        left = _squares(residual)
        turn = jnp.where(active, left / jnp.where(active, squares, 1), 0)
        left = jnp.where(active, left, squares)
        return solution + length * direction, residual, residual + turn * direction, left, steps + 1

    start = (jnp.zeros_like(goal), goal, goal, _squares(goal), jnp.asarray(0))
    solution, _, _, squares, steps = jax.lax.while_loop(unfinished, step, start)
    if not known_to_hold(jnp.all(squares <= bound)):
        worst = float(jnp.max(jnp.sqrt(squares / _squares(goal))))
        raise ValueError(
            f"max_steps: expected a residual of {tolerance:g} within {max_steps} steps, found "
            f"{worst:.1e}; allow more steps, a larger tolerance, or add a ridge to C"
        )
    norms = jnp.where(bound > 0, _squares(goal), 1)
    return Solved(solution * scale, jnp.sqrt(squares / norms)[:, 0], steps)


def _squares(rows: Array) -> Array:
    return jnp.sum(rows * rows, axis=1, keepdims=True)
