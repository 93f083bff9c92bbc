"""Edits of one layer from what was asked of them: any of the facts, in any order, without C."""

from __future__ import annotations

import dataclasses
from typing import get_args

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from kis_jax.core.checks import holds_or_traced
from kis_jax.core.ledger import Edit, Rule
from kis_jax.core.orthonormal import greedy_factor, own_share
from kis_jax.core.products import inner
from kis_jax.core.successive import residuals_met
from kis_jax.core.triangular import solve_columns


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Asked:
    r"""What was asked of one layer, and all that edits of it depend on.

    The closed forms know the second moment only by $C^{-1} k_i$, and the kernel only by what the
    values lacked. With these rows kept, the edit of some of the facts, in some order, is a small
    problem of products between them: no model, no kernel and no C are needed to take a fact back.

    Attributes:
      keys: $k_i$, `(n, d)`.
      solved: `(n, d)`, the rows $C^{-1} k_i$; for "null_space" $N k_i$. (The original ROME solves
        for other keys than those it reads with.)
      requested: `(n, m)`, values asked for less the values before any edit.
    """

    keys: Array
    solved: Array
    requested: Array

    def __len__(self) -> int:
        """Number of facts, n."""
        return self.keys.shape[0]

    def take(self, order: ArrayLike) -> Asked:
        """Some of the facts, `(t,)` int rows, in the order given."""
        return jax.tree.map(lambda rows: rows[order], self)


def replay(
    asked: Asked,
    rule: Rule,
    *,
    weight: float | Array | None = None,
    tolerance: float | Array | None = None,
) -> Edit:
    r"""The edit that a rule makes of what is asked, in the order of its rows.

    With $G_{ij} = k_i^\top C^{-1} k_j = K S^\top$, S being the rows solved: sequential directions
    are $s_i / G_{ii}$; constrained ones $L^{-1} S$ with $L L^\top = G$, each row divided by
    $L_{ii}$; batches solve $(G + w I) X = R$. Equal to `edit_sequential`, `edit_constrained`,
    `edit_batch` and `edit_null_space`.

    Args:
      asked: n facts, those wanted in the order wanted; see `Asked.take`.
      rule: `"sequential"`, `"constrained"`, `"batch"` or `"null_space"`.
      weight: of "batch", or the ridge of "null_space"; needed by these two alone.
      tolerance: for "constrained", as for `edit_constrained`.

    Returns:
      An `Edit` of n rows.

    Raises:
      ValueError: if shapes do not agree, a weight is missing or not positive, a key has no share
        in its own direction, or (constrained) keys depend on one another.

    Example:
      >>> import jax.numpy as jnp
      >>> keys, requested = jnp.array([[1.0, 0.0], [1.0, 1.0]]), jnp.array([[1.0], [0.0]])
      >>> asked = Asked(keys, solved=keys, requested=requested)  # C = I
      >>> replay(asked, "sequential").residuals
      Array([[ 1.],
             [-1.]], dtype=float32)
      >>> replay(asked.take(jnp.array([1, 0])), "sequential").residuals  # the other way round
      Array([[0.],
             [1.]], dtype=float32)

    Reference: Hu et al. 2024 (arXiv 2408.07413), eqs. 9 to 12; Meng et al. 2023
    (arXiv 2210.07229), eq. 14; Gupta et al. 2024 (arXiv 2403.14236).
    """
    _check(asked, rule, weight)
    own = jnp.sum(asked.keys * asked.solved, axis=1)
    if not holds_or_traced(jnp.all(own > 0)) and rule != "null_space":
        raise ValueError(
            f"asked: expected keys with a share in their own direction, found k . s = "
            f"{float(jnp.min(own)):.3g} in row {int(jnp.argmin(own))}; leave it out"
        )
    if rule == "sequential":
        return _in_order(asked, asked.solved / own[:, None], rule)
    gram = inner(asked.keys, asked.solved)
    if rule == "constrained":
        least = own_share(gram.dtype, tolerance)
        directions, own = _without_earlier(gram, asked.solved)
        if not holds_or_traced(jnp.all(own > least)):
            row = int(jnp.argmin(independent(asked, tolerance)))
            raise ValueError(
                f"asked: expected linearly independent keys, found that row {row} has less than "
                f"{float(least):.1e} of its squared length to itself, the rest in the span of "
                "those before it; leave it out"
            )
        return _in_order(asked, directions, rule)
    shifted = gram + jnp.asarray(weight, gram.dtype) * jnp.eye(len(gram), dtype=gram.dtype)
    factor = jnp.linalg.cholesky(shifted)
    residuals = solve_columns(factor, solve_columns(factor, asked.requested), transpose=True)
    empty = own <= 0  # a key outside of the space in which the edit may write
    directions = asked.solved / jnp.where(empty, 1, own)[:, None]
    directions = jnp.where(empty[:, None], 0, directions)
    residuals = residuals * jnp.where(empty, 0, own)[:, None]
    return Edit(directions, residuals, asked.requested, rule)


def independent(asked: Asked, tolerance: float | Array | None = None) -> Array:
    """Whether each key has enough of its own, beside the earlier ones of which that holds, `(n,)`.

    Those of which it holds can be edited by "constrained"; the others repeat what came before.

    Args:
      asked: n facts.
      tolerance: the least share of a whitened key's squared length that earlier keys must leave
        to it. None: the root of the machine epsilon.
    """
    cosines = _cosines(inner(asked.keys, asked.solved))[0]
    least = own_share(cosines.dtype, tolerance)
    return greedy_factor(cosines, least)[1] > least


def _in_order(asked: Asked, directions: Array, rule: Rule) -> Edit:
    residuals = residuals_met(directions, asked.keys, asked.requested)
    return Edit(directions, residuals, asked.requested, rule)


def _without_earlier(gram: Array, solved: Array) -> tuple[Array, Array]:
    """Directions of no share in earlier keys, one in their own; and what keys have of their own."""
    cosines, sizes = _cosines(gram)
    factor = jnp.linalg.cholesky(cosines)
    own = jnp.diagonal(factor)
    directions = solve_columns(factor, solved / sizes[:, None])
    return directions / (own * sizes)[:, None], own**2


def _cosines(gram: Array) -> tuple[Array, Array]:
    """A Gram matrix scaled to unit diagonal, and the roots of the diagonal that it had."""
    sizes = jnp.sqrt(jnp.diagonal(gram))
    return gram / (sizes[:, None] * sizes), sizes


def _check(asked: Asked, rule: Rule, weight: float | Array | None) -> None:
    if rule not in get_args(Rule):
        raise ValueError(f"rule: expected one of {', '.join(get_args(Rule))}, found {rule!r}")
    shapes = asked.keys.shape, asked.solved.shape, asked.requested.shape
    if any(len(shape) != 2 for shape in shapes) or shapes[0] != shapes[1]:
        raise ValueError(
            f"asked: expected keys and solved rows of one shape (n, d), found {shapes}"
        )
    if len(asked.requested) != len(asked):
        raise ValueError(f"asked: expected a requested row for each key, found shapes {shapes}")
    if (weight is not None) != (rule in ("batch", "null_space")):
        raise ValueError(f"weight: expected one for batch and null_space alone, found {weight}")
    if weight is not None and not holds_or_traced(jnp.asarray(weight) > 0):
        raise ValueError(f"weight: expected a positive number, found {weight}")
