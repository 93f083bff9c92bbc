"""Editing as facts come in: a state of fixed size, to which edits are added and undone."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Int

from kis_jax.core.arrays.checks import as_rows, checked_kernel, holds_or_traced
from kis_jax.core.arrays.products import inner
from kis_jax.core.arrays.pytrees import exported, pytree
from kis_jax.core.editing.filters import Filter, check_filters, check_free_of_blocks
from kis_jax.core.editing.ledger import Edit
from kis_jax.core.editing.naming import named_rule
from kis_jax.core.editing.rules import Earlier, Rule, solve_in_order
from kis_jax.core.geometry.spaces import Space, as_space


@exported
class Added(NamedTuple):
    """What an editor says of the edits it was given: of one edit scalars, of a block rows.

    Attributes:
      accepted: bool; an edit that was not accepted moves nothing.
      overlap: how far earlier edits speak for the new key, 0 to 1. Where the rule forgets them: the
        largest squared cosine between its coordinates and earlier ones. Where it remembers: the
        share of its squared length that they leave it none of. Near 1: a near-duplicate.
      nearest: int, the earlier edit with the largest cosine; -1 if there is none.
    """

    accepted: Array
    overlap: Array
    nearest: Array


@pytree
@dataclasses.dataclass(frozen=True, eq=False)
class Editor:
    r"""A kernel, and the edits made to it so far, with room for a fixed number of them.

    Made by `Editor.init`; `add`, `undo` and `drop` return new states of the same shapes, so that it
    can be the carry of `jax.lax.scan` and batched over layers by `jax.vmap`. Donated, it is given
    away as a whole, its kernel and space with it: donate a copy of what is needed afterwards. The
    kernel itself stays as it was: besides the coordinates and the value of its key, an edit takes
    O(capacity d) operations against the ledger, and undoing it restores the former state bit for
    bit.

    The space says what an update costs, the rule what becomes of the edits before: of C with
    `sequential()` it is the paper's edit, `edit_sequential`; with `ridge(0)` EMMET's, all values
    exact; with `ridge(w)` MEMIT's over all facts so far, never a `(d, d)` state; of the null space
    with `ridge(r)` AlphaEdit's.

    Attributes:
      kernel: before all edits, `(d, m)`.
      space: such as a `Whitener`.
      rule: such as `sequential()`.
      coordinates: of the keys, one edit a row, `(capacity, r)`; here and below zeros beyond
        `count`, and in `along`, `own` and `residuals` for edits that were not accepted.
      lengths: of the coordinates, `(capacity,)`.
      along: directions in coordinates, `(capacity, r)`.
      own: `(capacity,)`, what the edits before had left of the key's squared length.
      residuals: `(capacity, m)`, what each edit writes.
      initial_residuals: `(capacity, m)`, what its value lacked before any edit, $v_i - k_i W_0$.
      count: `()` int, rows taken.
      filters: of what is asked and of what is written, in this order; see `Filter`.

    Examples:
      >>> import jax.numpy as jnp
      >>> from kis_jax.core.editing.rules import ridge
      >>> from kis_jax.core.geometry.whitening import whitener
      >>> editor = Editor.init(jnp.zeros((2, 1)), whitener(jnp.eye(2)), 8, ridge(0))
      >>> editor, added = editor.add(jnp.array([1.0, 0.0]), jnp.array([1.0]))
      >>> editor, added = editor.add(jnp.array([1.0, 1.0]), jnp.array([0.0]))
      >>> editor.edit.apply(editor.kernel).round(3)
      Array([[ 1.],
             [-1.]], dtype=float32)
      >>> editor.undo().edit.apply(editor.kernel)
      Array([[1.],
             [0.]], dtype=float32)

    Reference: Hu et al. 2024 (arXiv 2408.07413), eqs. 9 to 12; Gupta et al. 2024
    (arXiv 2403.14236); Meng et al. 2023 (arXiv 2210.07229), eq. 14.
    """

    kernel: Array
    space: Space
    rule: Rule
    coordinates: Array
    lengths: Array
    along: Array
    own: Array
    residuals: Array
    initial_residuals: Array
    count: Array
    filters: tuple[Filter, ...] = ()

    @classmethod
    def init(
        cls,
        kernel: Float[ArrayLike, "d m"],
        space: Space,
        capacity: int,
        rule: Rule | str = "sequential",
        *,
        tolerance: float | Float[Array, ""] | None = None,
        axis_name: str | tuple[str, ...] | None = None,
        filters: Sequence[Filter] = (),
    ) -> Editor:
        """An editor of a kernel, without edits.

        Args:
          kernel: `(d, m)`.
          space: such as the whitener of the layer's second moment.
          capacity: the most edits that it will hold.
          rule: `sequential()`, `ridge(weight)` or another; `"sequential"`, or `"constrained"` for
            `ridge(0)`.
          tolerance: of `"constrained"`, as for `edit_constrained`.
          axis_name: within `shard_map`, the mesh axes over which the facts to come differ, where
            each device makes edits of its own: so that the state is of one type from the start.
          filters: such as `norm_anchor(values)` and `protect(kernel)`.

        Raises:
          ValueError: if the kernel is not of the space's width, filters do not go with the rule, or
            another argument is wrong.
        """
        dtype = as_space("space", space).dtype
        kernel = checked_kernel(jnp.asarray(kernel), space.width)
        if capacity < 1:
            raise ValueError(f"capacity: expected at least 1 edit, found {capacity}")
        if not isinstance(rule, Rule):
            if rule not in ("sequential", "constrained", "emmet"):
                raise ValueError(
                    f'rule: expected "sequential", "constrained" or a rule, found {rule!r}; for '
                    "least squares pass kis.ridge(weight)"
                )
            rule = named_rule(rule, dtype, tolerance=tolerance)
        check_filters(rule, filters)
        # Zeros of the data: laid out, and varying within `shard_map`, as what is written will be.
        row = jnp.zeros((1, space.width), dtype)
        z = jnp.zeros_like(space.coordinates(row))
        value = jnp.zeros_like(inner(row, kernel.astype(dtype).T))
        zero = z[0, 0] + value[0, 0]
        for leaf in jax.tree.leaves(rule):
            zero += jnp.zeros_like(leaf, dtype, shape=())
        if axis_name:
            names = (axis_name,) if isinstance(axis_name, str) else axis_name
            zero = jax.lax.pcast(zero, tuple(names), to="varying")
        like = {"coordinates": z[0], "lengths": zero, "along": z[0], "own": zero}
        like |= {"residuals": value[0], "initial_residuals": value[0]}
        rows = {
            name: jnp.broadcast_to(row + zero, (capacity, *row.shape)) for name, row in like.items()
        }
        return cls(
            *(kernel, space, rule),
            **rows,
            count=jnp.zeros_like(zero, jnp.int32),
            filters=tuple(filters),
        )

    @property
    def requested(self) -> Float[Array, "capacity m"]:
        """The name of `initial_residuals` in version 0.1."""
        return self.initial_residuals

    @property
    def edit(self) -> Edit:
        """The ledger so far, as an `Edit` of `capacity` rows, those still free being zeros.

        `editor.edit[: int(editor.count)]` has a row for each edit and no more, as
        `interference_on_edited` wants them.
        """
        return self.part(0, self.along.shape[0])

    def part(self, start: int, stop: int) -> Edit:
        """What the edits from row `start` to before row `stop` wrote, as an `Edit`."""
        along, own, residuals, initial = (
            jax.lax.dynamic_slice_in_dim(rows, start, stop - start)
            for rows in (self.along, self.own, self.residuals, self.initial_residuals)
        )
        initial = jnp.where((own > 0)[:, None], initial, 0)
        directions, extended = self.space.directions(along), self.space.extended
        for each in self.filters:
            directions = each.directions(directions)
        return Edit(directions, residuals, initial, self.rule.name, extended)

    def add(
        self, keys: Float[Array, "*block d"], values: Float[Array, "*block m"]
    ) -> tuple[Editor, Added]:
        """Adds one edit, or a block of edits in their order.

        Each edit takes a row of the ledger (under `jit`: while there are any), accepted or not:
        zeros if its key is zero, not finite or ("constrained") in the span of earlier ones, or if
        its value is not finite.

        Args:
          keys: `(d,)`, or `(b, d)`.
          values: asked for, `(m,)`, or `(b, m)`.

        Returns:
          The new state; and an `Added`, of scalars for one edit, of rows for a block.

        Raises:
          ValueError: if shapes do not agree, or the ledger is full (under `jit`: edits beyond its
            capacity are not accepted, as long as the block is not larger than it).
        """
        single = jnp.ndim(keys) == 1
        keys, values = jnp.atleast_2d(keys), jnp.atleast_2d(values)
        keys = as_rows("keys", keys, self.space.width)
        expected = (keys.shape[0], self.kernel.shape[1])
        if values.shape != expected:
            raise ValueError(f"values: expected shape {expected}, found {values.shape}")
        capacity = self.along.shape[0]
        if keys.shape[0] > capacity or not holds_or_traced(self.count + keys.shape[0] <= capacity):
            free = capacity if keys.shape[0] > capacity else capacity - int(self.count)
            raise ValueError(
                f"keys: expected at most {free}, the rows still free, found "
                f"{keys.shape[0]}; make the editor with a larger capacity"
            )
        editor, added = _add(self, keys, values)
        return editor, Added(*(field[0] for field in added)) if single else added

    def undo(self, steps: int | Int[Array, ""] = 1) -> Editor:
        """The state before the last edits, bit for bit; `steps` beyond the first undo all.

        Raises:
          ValueError: if `steps` is negative (under `jit`: undoes none).
        """
        if not holds_or_traced(jnp.asarray(steps) >= 0):
            raise ValueError(f"steps: expected the number of edits to undo, found {steps}")
        count = jnp.maximum(self.count - jnp.maximum(jnp.asarray(steps, jnp.int32), 0), 0)
        return _cut(self, count)

    def take(self, order: Int[ArrayLike, " t"]) -> Editor:
        """The state as if only these edits had been asked for, in this order.

        Answered from the ledger, at the cost of one block of `capacity` edits: neither the keys nor
        the values of the facts are needed.

        Args:
          order: `(t,)` int, rows, each at most once.

        Raises:
          ValueError: if a row has no edit, or comes twice (under `jit`: not checked), or edits
            depend on the blocks in which they came.
        """
        check_free_of_blocks(self.rule, self.filters)
        order = jnp.asarray(order, jnp.int32)
        ordered = jnp.sort(order)
        within = jnp.all((order >= 0) & (order < self.count))
        within &= order.shape[0] <= self.along.shape[0]
        if not holds_or_traced(within & jnp.all(ordered[1:] != ordered[:-1])):
            raise ValueError(
                f"order: expected rows 0 to {int(self.count) - 1}, each at most once, found {order}"
            )
        rest = jnp.zeros(self.along.shape[0] - order.shape[0], jnp.int32)
        count = jnp.asarray(order.shape[0], jnp.int32) + jnp.zeros_like(self.count)
        return _redone(self, jnp.concatenate([order, rest]), count)

    def drop(self, rows: Int[ArrayLike, " k"] | Bool[ArrayLike, " capacity"]) -> Editor:
        """The state as if some edits had never been asked for, such as those of superseded facts.

        Their keys leave the solve and what they wrote leaves the kernel; later rows move up.

        Args:
          rows: `(k,)` int, or `(capacity,)` bool, true where an edit is dropped.

        Raises:
          ValueError: if a row has no edit (under `jit`: nothing happens to it), or edits depend on
            the blocks in which they came.
        """
        check_free_of_blocks(self.rule, self.filters)
        rows, index = jnp.asarray(rows), jnp.arange(self.along.shape[0], dtype=jnp.int32)
        if rows.dtype != bool:
            rows = rows.astype(jnp.int32)
            if not holds_or_traced(jnp.all((rows >= 0) & (rows < self.count))):
                raise ValueError(
                    f"rows: expected rows of edits, 0 to {int(self.count) - 1}, found {rows}"
                )
            rows = jnp.zeros(self.along.shape[0], bool).at[rows].set(True, mode="drop")
        gone = rows | (index >= self.count)
        count = jnp.sum(~gone, dtype=jnp.int32)
        return _redone(self, jnp.argsort(gone, stable=True).astype(jnp.int32), count)


_ROWS = ("coordinates", "lengths", "along", "own", "residuals", "initial_residuals")


@jax.jit
def _cut(editor: Editor, count: Array) -> Editor:
    """The first `count` rows; the others zeros."""
    kept = jnp.arange(editor.along.shape[0], dtype=jnp.int32) < count

    def first(rows: Array) -> Array:
        return jnp.where(kept.reshape(-1, *(1,) * (rows.ndim - 1)), rows, 0)

    rows = {name: first(getattr(editor, name)) for name in _ROWS}
    return dataclasses.replace(editor, count=count, **rows)


@jax.jit
def _redone(editor: Editor, order: Array, count: Array) -> Editor:
    """All edits made anew, in another order, as one block."""
    rows = {name: getattr(editor, name)[order] for name in _ROWS}
    editor = _cut(dataclasses.replace(editor, **rows), count)
    z, extended = editor.coordinates, editor.space.extended
    found = solve_in_order(editor.rule, z, z, editor.initial_residuals, extended=extended)
    return dataclasses.replace(editor, along=found.along, own=found.own, residuals=found.residuals)


@jax.jit
def _add(editor: Editor, keys: Array, values: Array) -> tuple[Editor, Added]:
    space, rule, dtype = editor.space, editor.rule, editor.along.dtype
    extended = space.extended
    keys, values = keys.astype(dtype), values.astype(dtype)
    for each in editor.filters:
        values = each.values(values)
    initial = values - inner(keys, editor.kernel.astype(dtype).T, extended=extended)
    z = space.coordinates(keys)
    lengths = jnp.sqrt(jnp.sum(z * z, axis=1))
    places = editor.count + jnp.arange(keys.shape[0], dtype=jnp.int32)
    sound = (lengths > 0) & jnp.isfinite(lengths) & (places < editor.along.shape[0])
    sound &= jnp.all(jnp.isfinite(initial), axis=1)
    lengths = jnp.where(sound, lengths, 0)
    z, initial = (jnp.where(sound[:, None], rows, 0) for rows in (z, initial))

    shares = inner(z, editor.along, extended=extended)
    written = initial
    for each in editor.filters:
        initial = each.residuals(initial)
    if all(each.carried for each in editor.filters):
        lacking = initial - inner(shares, editor.residuals.T, extended=extended)
    else:
        found = editor.part(0, editor.along.shape[0]).directions
        here = inner(jnp.where(sound[:, None], keys, 0), found, extended=extended)
        lacking = written - inner(here, editor.residuals.T, extended=extended)
        for each in editor.filters:
            lacking = each.residuals(lacking)
    earlier = Earlier(editor.along, editor.own) if rule.remembers else None
    found = solve_in_order(rule, z, z, lacking, earlier, extended=extended)

    if rule.remembers or rule.by_blocks:
        products = inner(z, editor.coordinates, extended=extended)
        products = jnp.where(editor.own[None] > 0, products, 0)
        overlap = jnp.where(sound, 1 - found.own / jnp.where(sound, lengths, 1) ** 2, 0)
    else:
        products, overlap = shares * editor.own[None], None  # each along is z over its own
    strongest, nearest = _nearest(editor, products, z, lengths, found.accepted)
    if overlap is None:
        overlap = jnp.minimum(strongest**2, 1)

    new = (z, lengths, found.along, found.own, found.residuals, initial)
    rows = {
        name: _write(getattr(editor, name), rows, editor.count)
        for name, rows in zip(_ROWS, new, strict=True)
    }
    count = jnp.minimum(editor.count + keys.shape[0], editor.along.shape[0])
    return dataclasses.replace(editor, count=count, **rows), Added(found.accepted, overlap, nearest)


def _nearest(
    editor: Editor, products: Array, z: Array, lengths: Array, accepted: Array
) -> tuple[Array, Array]:
    """The greatest cosine of new keys with earlier ones, `(b,)`, and whose; 0 and -1 for none."""

    def cosines(products: Array, others: Array) -> Array:
        sizes = lengths[:, None] * others[None]
        return jnp.abs(products) / jnp.where(sizes > 0, sizes, 1)

    before = cosines(products, editor.lengths)
    within = jnp.tril(jnp.where(accepted[None], cosines(inner(z, z), lengths), 0), -1)
    first, last = jnp.max(before, axis=1), jnp.max(within, axis=1)
    rows = [jnp.argmax(found, axis=1).astype(jnp.int32) for found in (before, within)]
    nearest = jnp.where(last > first, editor.count + rows[1], rows[0])
    strongest = jnp.maximum(first, last)
    return strongest, jnp.where(strongest > 0, nearest, -1)


def _write(old: Array, new: Array, start: Array) -> Array:
    """Rows put in from `start` on, those beyond the end left out; in place where `old` is free."""
    begin = jnp.minimum(start, old.shape[0] - new.shape[0])
    beyond = start - begin
    if new.shape[0] > 1:
        new = jnp.roll(new, beyond, axis=0)
    held = jax.lax.dynamic_slice_in_dim(old, begin, new.shape[0])
    kept = jnp.arange(new.shape[0], dtype=jnp.int32) < beyond
    new = jnp.where(kept.reshape(-1, *(1,) * (new.ndim - 1)), held, new)
    return jax.lax.dynamic_update_slice_in_dim(old, new, begin, axis=0)
