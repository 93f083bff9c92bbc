"""The inverse of a second moment that is too large to factor, from products with it alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from kis_jax.core.arrays.checks import as_rows, holds_or_traced
from kis_jax.core.arrays.pytrees import exported


@exported
class Solved(NamedTuple):
    """Solutions of a linear system, one a row, and how good they are.

    Attributes:
      rows: `(n, d)`.
      residual: `(n,)`, norms of what is left of each right-hand side, relative to it, computed
        anew from the solution; in units in which C has a unit diagonal.
      steps: `()` int, products with the matrix.
    """

    rows: Array
    residual: Array
    steps: Array


def solve_iteratively(
    product: Callable[[Float[Array, "n d"]], Float[Array, "n d"]],
    keys: Float[Array, "n d"],
    diagonal: Float[Array, " d"],
    *,
    tolerance: float = 1e-6,
    max_steps: int = 10_000,
) -> Solved:
    r"""Rows $C^{-1} k$ by conjugate gradients, for a C that no device can factor, or hold.

    All rows go through one product with C a step, which may be anything: a matrix sharded over
    devices, one read from disk, or a pass over stored keys, `lambda x: (x @ keys.T) @ keys / n`.
    The preconditioner is the diagonal, that is, C is scaled to unit diagonal. The number of steps
    grows with the root of the condition number that is left. As rounding leads the iteration away
    from the true residual, this is computed anew when it seems small enough, and the iteration
    started again on what is left.

    The rows are the directions of edits: with `gram = keys @ rows.T` they give P as
    `gram / gram.diagonal()[:, None]`, `forecast` gives the residuals, and both an `Edit`.

    Wrap it in `jit` to compile it once for a given `product`. There is no reverse-mode gradient.

    Args:
      product: `(n, d) -> (n, d)`, rows times C; symmetric and positive definite.
      keys: `(n, d)`.
      diagonal: of C, `(d,)`, positive.
      tolerance: norm of the residual of each row, relative to that of the key, both scaled.
      max_steps: the most products, over all starts.

    Returns:
      `Solved`, in the dtype of `keys`.

    Raises:
      ValueError: if shapes do not agree, or (not under `jit`) if the tolerance is not reached:
        after `max_steps`, or because the dtype has no more digits to give.

    Examples:
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
    if keys.dtype not in (jnp.float32, jnp.float64) or not 0 < tolerance < 1:
        raise ValueError(
            "keys, tolerance: expected float32 or float64 and a number between 0 and 1, found "
            f"{keys.dtype} and {tolerance}"
        )
    scale = jax.lax.rsqrt(diagonal.astype(keys.dtype))
    lengths = jnp.linalg.norm(keys * scale[None], axis=1, keepdims=True)
    goal = keys * scale[None] / jnp.where(lengths > 0, lengths, 1)
    bound = tolerance**2 * _squares(goal)

    def scaled_product(rows: Array) -> Array:
        return product(rows * scale[None]) * scale[None]

    def improved(state: tuple[Array, ...]) -> tuple[Array, ...]:
        """Another start, on what is left of the right-hand side."""
        solution, residual, squares, _, steps = state
        found, steps = _iterate(scaled_product, residual, bound, steps, max_steps)
        candidate = solution + found
        left = goal - scaled_product(candidate)
        better = _squares(left) < squares
        solution = jnp.where(better, candidate, solution)
        residual = jnp.where(better, left, residual)
        return solution, residual, _squares(residual), squares, steps + 1

    def worthwhile(state: tuple[Array, ...]) -> Array:
        _, _, squares, before, steps = state
        open_rows = squares > bound
        return (steps < max_steps) & jnp.any(open_rows & (squares < before / 4))

    squares = _squares(goal)
    start = (jnp.zeros_like(goal), goal, squares, jnp.full_like(squares, jnp.inf), jnp.asarray(0))
    solution, _, squares, _, steps = jax.lax.while_loop(worthwhile, improved, start)
    share = jnp.sqrt(squares / jnp.where(bound > 0, _squares(goal), 1))
    if not holds_or_traced(jnp.all(squares <= bound) & jnp.all(jnp.isfinite(lengths))):
        raise ValueError(
            f"tolerance: expected residuals of {tolerance:g} within {max_steps} steps, found "
            f"{float(jnp.max(share)):.1e} after {int(steps)}; allow more steps or a larger "
            "tolerance, work in float64, or add a ridge to C"
        )
    return Solved(solution * lengths * scale[None], share[:, 0], steps)


def _iterate(
    product: Callable[[Array], Array], goal: Array, bound: Array, steps: Array, max_steps: int
) -> tuple[Array, Array]:
    """Conjugate gradients from zero, until all squared residuals seem to be within the bound."""

    def unfinished(state: tuple[Array, ...]) -> Array:
        *_, squares, steps = state
        return jnp.any(squares > bound) & (steps < max_steps)

    def step(state: tuple[Array, ...]) -> tuple[Array, ...]:
        solution, residual, direction, squares, steps = state
        image = product(direction)
        curvature = jnp.sum(direction * image, axis=1, keepdims=True)
        active = squares > bound
        length = jnp.where(active, squares / jnp.where(active, curvature, 1), 0)
        residual = residual - length * image
        left = jnp.where(active, _squares(residual), squares)
        turn = jnp.where(active, left / jnp.where(active, squares, 1), 0)
        return solution + length * direction, residual, residual + turn * direction, left, steps + 1

    start = (jnp.zeros_like(goal), goal, goal, _squares(goal), steps)
    solution, *_, steps = jax.lax.while_loop(unfinished, step, start)
    return solution, steps


def _squares(rows: Array) -> Array:
    return jnp.sum(rows * rows, axis=1, keepdims=True)
