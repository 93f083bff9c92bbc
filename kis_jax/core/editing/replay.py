"""Edits of one layer from what was asked of them: any of the facts, in any order, without C."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Int

from kis_jax.core.arrays.checks import as_real, holds_or_traced, known
from kis_jax.core.arrays.mesh import rows_whole
from kis_jax.core.arrays.orthonormal import own_share
from kis_jax.core.arrays.products import matmul
from kis_jax.core.arrays.pytrees import pytree
from kis_jax.core.arrays.successive import landed
from kis_jax.core.editing.ledger import Edit
from kis_jax.core.editing.naming import named_rule
from kis_jax.core.editing.rules import (
    ALIASES,
    TOGETHER,
    Constrained,
    Earlier,
    Rule,
    Sequential,
    solve_in_order,
    solve_together,
)


@pytree
@dataclasses.dataclass(frozen=True, eq=False)
class Asked:
    r"""What was asked of one layer, and all that edits of it depend on.

    The closed forms know the second moment only by $C^{-1} k_i$, and the kernel only by what the
    values lacked. With these rows kept, the edit of some of the facts, in some order, is a small
    problem of products between them: no model, no kernel and no C are needed to take a fact back.

    Attributes:
      keys: $k_i$, `(n, d)`.
      solved: `(n, d)`, the rows $C^{-1} k_i$; for "null_space" $N k_i$. (The original ROME solves
        for other keys than those it reads with.)
      initial_residuals: `(n, m)`, values asked for less the values before any edit.
      written: `(n, d)`, the solved rows as filters leave them, along which edits write; None where
        that is along the solved rows themselves.
    """

    keys: Array
    solved: Array
    initial_residuals: Array
    written: Array | None = None

    def __len__(self) -> int:
        """Number of facts, n."""
        return self.keys.shape[0]

    def take(self, order: Int[ArrayLike, " t"]) -> Asked:
        """Some of the facts, `(t,)` int rows, in the order given.

        Raises:
          ValueError: if there are no facts to take any of.
        """
        order = jnp.asarray(order)
        if order.size and self.keys.shape[:1] == (0,):
            raise ValueError(f"order: expected rows of the facts, found {order} of no facts")
        return jax.tree.map(lambda rows: rows_whole(rows)[order], self)

    @property
    def requested(self) -> Float[Array, "n m"]:
        """The name of `initial_residuals` in version 0.1."""
        return self.initial_residuals

    @property
    def superposition(self) -> Float[Array, "n n"]:
        """P, `(n, n)`: the share of each edit that lands on each of the facts."""
        keys, solved = rows_whole(self.keys), rows_whole(self.solved)
        written = solved if self.written is None else rows_whole(self.written)
        return matmul(written, keys.T) / jnp.sum(solved * keys, axis=1, keepdims=True)


def replay(
    asked: Asked,
    rule: str | Rule,
    *,
    weight: float | Float[Array, ""] | None = None,
    tolerance: float | Float[Array, ""] | None = None,
    blocks: Sequence[int] | None = None,
    carried: bool = True,
) -> Edit:
    r"""The edit that a rule makes of what is asked, in the order of its rows.

    A rule needs no more of the space than the inner products of keys, $G = K S^\top$ with the rows
    S solved, and directions that are combinations of these rows. Equal to `edit_sequential`,
    `edit_constrained`, `edit_batch` and `edit_null_space`, and to an `Editor` with the rule.

    Args:
      asked: n facts, those wanted in the order wanted; see `Asked.take`.
      rule: any; or `"sequential"`, `"constrained"`, `"batch"` or `"null_space"`, of which the last
        three go by `"emmet"`, `"memit"` and `"alphaedit"` too; `"shrinking"` or `"anew"`.
      weight: of all but the first two, which have none.
      tolerance: for "constrained", as for `edit_constrained`.
      blocks: where one block ends and the next begins, from 0 to n, for rules that forget what was
        before a block; None for one block. To all other rules it makes no difference.
      carried: whether the filters that made `Asked.written` are; if not, blocks matter as well.

    Returns:
      An `Edit` of n rows.

    Raises:
      ValueError: if shapes do not agree, a weight is missing or not positive, a key has no share
        in its own direction, or (constrained) keys depend on one another.

    Examples:
      >>> import jax.numpy as jnp
      >>> keys, values = jnp.array([[1.0, 0.0], [1.0, 1.0]]), jnp.array([[1.0], [0.0]])
      >>> asked = Asked(keys, solved=keys, initial_residuals=values)  # C = I, W = 0
      >>> replay(asked, "sequential").residuals
      Array([[ 1.],
             [-1.]], dtype=float32)
      >>> replay(asked.take(jnp.array([1, 0])), "sequential").residuals  # the other way round
      Array([[0.],
             [1.]], dtype=float32)

    Reference: Hu et al. 2024 (arXiv 2408.07413), eqs. 9 to 12; Meng et al. 2023
    (arXiv 2210.07229), eq. 14; Gupta et al. 2024 (arXiv 2403.14236).
    """
    asked = _checked(asked)
    if isinstance(rule, str):
        rule = ALIASES.get(rule, rule)
    made = rule
    if not isinstance(made, Rule):
        dtype = jnp.asarray(asked.keys).dtype
        made = named_rule(made, dtype, weight=weight, tolerance=tolerance)
    own = jnp.sum(jnp.asarray(asked.keys) * asked.solved, axis=1)
    if not holds_or_traced(jnp.all(own > 0)) and isinstance(made, (Sequential, Constrained)):
        raise ValueError(
            f"asked: expected keys with a share in their own direction, found k . s = "
            f"{float(jnp.min(own)):.3g} in row {int(jnp.argmin(own))}; leave it out"
        )
    together = rule if isinstance(rule, str) and rule in TOGETHER else ""
    if blocks is not None and (made.by_blocks or not carried):
        return _in_blocks(asked, made, blocks)
    edit, accepted = _replayed(asked, made, together)
    if isinstance(made, Constrained) and not holds_or_traced(jnp.all(accepted)):
        raise ValueError(
            f"asked: expected linearly independent keys, found that row {int(jnp.argmin(accepted))}"
            f" has less than {float(made.tolerance):.1e} of its squared length to itself, the rest "
            "in the span of those before it; leave it out"
        )
    return edit


def foresee(
    gram: Float[Array, "N N"],
    initial_residuals: Float[Array, "n m"],
    rule: str | Rule,
    *,
    weight: float | Float[Array, ""] | None = None,
    blocks: Sequence[int] | None = None,
    written: Float[Array, "n N"] | None = None,
    carried: bool = True,
) -> Float[Array, "N m"]:
    r"""How far edits will move the values of keys, edited and untouched ones alike.

    The same engine without kernel, model or C: with keys as unit vectors and G in the place of
    $C^{-1}$, the update of a kernel is the move of each key's value.

    Args:
      gram: `(N, N)`, $k_i^\top C^{-1} k_j$ (null space: $k_i^\top N k_j$), the n edited keys first,
        in their order, then keys to be left alone.
      initial_residuals: `(n, m)`: values asked for, less the values before all edits.
      rule: of the edits; see `replay`.
      weight: likewise. In however many blocks edits are made, ridge regression over all of them
        is what they come to.
      blocks: see `replay`.
      carried: see `replay`.
      written: `(n, N)`, how far an edit of each edited key, as filters leave its direction, moves
        each key, $k_i^\top C^{-1} F k_j$; None without filters of what is written.

    Returns:
      `(N, m)`: the change of each key's value.

    Raises:
      ValueError: as `replay`, or if the shapes do not agree.

    Examples:
      >>> import jax.numpy as jnp
      >>> gram = jnp.array([[2.0, 1.0], [1.0, 4.0]])
      >>> foresee(gram, jnp.array([[4.0]]), "sequential")
      Array([[4.],
             [2.]], dtype=float32)

    Reference: Hu et al. 2024 (arXiv 2408.07413), eqs. 12 to 15; Rasmussen and Williams 2006,
    eq. 2.25.
    """
    gram = rows_whole(as_real("gram", gram, wide=True))
    initial = as_real("initial_residuals", initial_residuals).astype(gram.dtype)
    n, total = initial.shape[:1] + gram.shape[:1] if initial.ndim == gram.ndim == 2 else (0, 0)
    beyond = known(n, total) and n > total
    if gram.ndim != 2 or gram.shape[0] != gram.shape[1] or beyond or initial.ndim != 2:
        raise ValueError(
            "gram, initial_residuals: expected shapes (N, N) and (n, m), the n edited keys first, "
            f"found {gram.shape} and {initial.shape}"
        )
    unit = jnp.eye(n, total, dtype=gram.dtype)
    asked = Asked(unit, gram[:n], initial, written)
    return replay(asked, rule, weight=weight, blocks=blocks, carried=carried).delta


def independent(
    asked: Asked, tolerance: float | Float[Array, ""] | None = None
) -> Bool[Array, " n"]:
    """Whether each key has enough of its own, beside the earlier ones of which that holds, `(n,)`.

    Those of which it holds can be edited by "constrained"; the others repeat what came before.

    Args:
      asked: n facts.
      tolerance: the least share of a whitened key's squared length that earlier keys must leave
        to it. None: the root of the machine epsilon.
    """
    asked = _checked(asked)
    rule = Constrained(own_share(asked.keys.dtype, tolerance))
    return _replayed(asked, rule, "")[1]


@jax.jit(static_argnames="together")
def _replayed(asked: Asked, rule: Rule, together: str) -> tuple[Edit, Array]:
    solve = solve_together if together else solve_in_order
    rows, keys = _rows(asked)
    found = solve(rule, rows, keys, asked.initial_residuals)  # pyright: ignore
    along = found.along[:, -asked.keys.shape[1] :]
    edit = Edit(along, found.residuals, asked.initial_residuals, together or rule.name)
    return edit, found.accepted


def _rows(asked: Asked) -> tuple[Array, Array]:
    """What a rule solves for: all it does with rows is linear, so those written come along."""
    if asked.written is None:
        return asked.solved, asked.keys
    rows = jnp.concatenate([asked.solved, asked.written], axis=1)
    return rows, jnp.concatenate([asked.keys, jnp.zeros_like(asked.keys)], axis=1)


def _in_blocks(asked: Asked, rule: Rule, blocks: Sequence[int]) -> Edit:
    """Block by block, each meeting the kernel as those before have written it."""
    earlier: Earlier | None = None
    parts: list[Edit] = []
    for start, stop in itertools.pairwise(blocks):
        here = asked.take(jnp.arange(start, stop, dtype=jnp.int32))
        lacking = here.initial_residuals
        for part in parts:
            lacking = lacking - landed(part.directions, part.residuals, here.keys)
        found = solve_in_order(rule, *_rows(here), lacking, earlier)
        if rule.remembers:
            own = found.along, found.own
            old = () if earlier is None else (earlier,)
            earlier = Earlier(*(jnp.concatenate(each) for each in zip(*old, own, strict=True)))
        along = found.along[:, -asked.keys.shape[1] :]
        parts.append(Edit(along, found.residuals))
    joined = (
        jnp.concatenate([getattr(part, name) for part in parts])
        for name in ("directions", "residuals")
    )
    return Edit(*joined, initial_residuals=asked.initial_residuals, rule=rule.name)


def _checked(asked: Asked) -> Asked:
    shapes = asked.keys.shape, asked.solved.shape, asked.initial_residuals.shape
    if any(len(shape) != 2 for shape in shapes) or shapes[0] != shapes[1]:
        raise ValueError(
            f"asked: expected keys and solved rows of one shape (n, d), found {shapes}"
        )
    if asked.initial_residuals.shape[0] != asked.keys.shape[0]:
        raise ValueError(f"asked: expected a residual for each key, found shapes {shapes}")
    rows = (as_real("asked", part, wide=True) for part in (asked.keys, asked.solved))
    keys, solved = (rows_whole(part) for part in rows)
    initial = rows_whole(as_real("asked", asked.initial_residuals).astype(keys.dtype))
    if asked.written is None:
        return Asked(keys, solved, initial)
    if asked.written.shape != shapes[1]:
        raise ValueError(
            f"asked: expected written rows of the shape of those solved, {shapes[1]}, found "
            f"{asked.written.shape}"
        )
    return Asked(keys, solved, initial, rows_whole(as_real("asked", asked.written, wide=True)))
