"""Editing as facts come in: a state of fixed size, to which edits are added and undone."""

from __future__ import annotations

import dataclasses
import functools
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from kis_jax.core import products
from kis_jax.core.checks import as_rows, holds_or_traced
from kis_jax.core.ledger import Edit
from kis_jax.core.orthonormal import orthonormal, own_share
from kis_jax.core.successive import landed, residuals_met
from kis_jax.core.whitening import Whitener


class Added(NamedTuple):
    """What an editor says of the edits it was given.

    Attributes:
      accepted: `(b,)` bool; an edit that was not accepted moves nothing.
      overlap: `(b,)`, how far earlier edits speak for the new key, 0 to 1. Sequential: the largest
        squared cosine between its whitened key and an earlier one. Constrained: the share of its
        squared length in the span of all earlier ones. Near 1: a near-duplicate.
      nearest: `(b,)` int, the earlier edit with the largest cosine; -1 if there is none.
    """

    accepted: Array
    overlap: Array
    nearest: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Editor:
    r"""A kernel, and the edits made to it so far, with room for a fixed number of them.

    Made by `Editor.init`; `add` and `undo` return new states of the same shapes, so that it can be
    the carry of `jax.lax.scan`. The kernel itself stays as it was: besides whitening its key and
    reading its value, an edit takes O(capacity d) operations against the ledger, and undoing it
    restores the former state bit for bit.

    Two rules. "sequential" is the paper's, each edit a rank-one update of the kernel that the last
    one left: equal to `edit_sequential`. "constrained" makes each edit along the part of its
    direction that no earlier one spans, so that all values stay exact: equal to
    `edit_constrained`. (Gram and Schmidt's orthogonalisation, done twice, in place of growing a
    Cholesky factor of the Gram matrix: the same cost, and stable for keys that are nearly alike.)

    Attributes:
      kernel: before all edits, `(d, m)`.
      whitener: of the layer's second moment.
      white: whitened keys at unit length, one edit a row, `(capacity, r)`; zeros beyond `count`.
      along: whitened directions, `(capacity, r)`.
      residuals: `(capacity, m)`, what each edit writes.
      requested: `(capacity, m)`, what its value lacked before any edit.
      count: `()` int, rows taken.
      tolerance: constrained edits with less of their own than this share are not accepted.
      rule: `"sequential"` or `"constrained"`.

    Example:
      >>> import jax.numpy as jnp
      >>> from kis_jax.core.whitening import whitener
      >>> editor = Editor.init(jnp.zeros((2, 1)), whitener(jnp.eye(2)), 8, rule="constrained")
      >>> editor, added = editor.add(jnp.array([1.0, 0.0]), jnp.array([1.0]))
      >>> editor, added = editor.add(jnp.array([1.0, 1.0]), jnp.array([0.0]))
      >>> editor.edit.apply(editor.kernel).round(3)
      Array([[ 1.],
             [-1.]], dtype=float32)
      >>> editor.undo().edit.apply(editor.kernel)
      Array([[1.],
             [0.]], dtype=float32)

    Reference: Hu et al. 2024 (arXiv 2408.07413), eqs. 9 to 12; Gupta et al. 2024
    (arXiv 2403.14236); Giraud, Langou and Rozloznik 2005 on orthogonalising twice.
    """

    kernel: Array
    whitener: Whitener
    white: Array
    along: Array
    residuals: Array
    requested: Array
    count: Array
    tolerance: Array
    rule: Literal["sequential", "constrained"] = dataclasses.field(metadata={"static": True})

    @classmethod
    def init(
        cls,
        kernel: ArrayLike,
        whitener: Whitener,
        capacity: int,
        *,
        rule: Literal["sequential", "constrained"] = "sequential",
        tolerance: float | Array | None = None,
    ) -> Editor:
        """An editor of a kernel, without edits.

        Args:
          kernel: `(d, m)`.
          whitener: of the layer's second moment.
          capacity: the most edits that it will hold.
          rule: `"sequential"` or `"constrained"`.
          tolerance: for constrained edits, the least share of a whitened key's squared length that
            earlier keys must leave to it, as for `edit_constrained`. None: the root of the machine
            epsilon.

        Raises:
          ValueError: if the kernel is not of the whitener's width, or another argument is wrong.
        """
        d, dtype, kernel = whitener.width, whitener.factor.dtype, jnp.asarray(kernel)
        if kernel.ndim != 2 or kernel.shape[0] != d:
            raise ValueError(f"kernel: expected shape ({d}, m), found {kernel.shape}")
        if capacity < 1:
            raise ValueError(f"capacity: expected at least 1 edit, found {capacity}")
        if rule not in ("sequential", "constrained"):
            raise ValueError(f'rule: expected "sequential" or "constrained", found {rule!r}')
        # Zeros of the data: within `shard_map` they vary over the mesh as what is written will.
        zero = jnp.zeros_like(whitener.factor[0, 0]) + jnp.zeros_like(kernel[0, 0], dtype)
        rank, m = whitener.factor.shape[1], kernel.shape[1]
        return cls(
            kernel,
            whitener,
            white=jnp.broadcast_to(zero, (capacity, rank)),
            along=jnp.broadcast_to(zero, (capacity, rank)),
            residuals=jnp.broadcast_to(zero, (capacity, m)),
            requested=jnp.broadcast_to(zero, (capacity, m)),
            count=jnp.zeros((), jnp.int32),
            tolerance=own_share(dtype, tolerance),
            rule=rule,
        )

    @property
    def edit(self) -> Edit:
        """The ledger so far, as an `Edit` of `capacity` rows, those still free being zeros.

        `editor.edit[: int(editor.count)]` has a row for each edit and no more, as
        `interference_on_edited` wants them.
        """
        directions = self.whitener.directions(self.along)
        extended = self.whitener.extended
        return Edit(directions, self.residuals, self.requested, self.rule, extended)

    def add(self, keys: Array, values: Array) -> tuple[Editor, Added]:
        """Adds one edit, or a block of edits in their order.

        Each edit takes a row of the ledger (under `jit`: while there are any), accepted or not:
        zeros if its key is zero, not finite or (constrained) in the span of earlier ones, or if
        its value is not finite.

        Args:
          keys: `(d,)`, or `(b, d)`.
          values: asked for, `(m,)`, or `(b, m)`.

        Returns:
          The new state, and an `Added` whose fields have a row for each edit.

        Raises:
          ValueError: if shapes do not agree, or the ledger is full (under `jit`: edits beyond its
            capacity are not accepted).
        """
        keys, values = jnp.atleast_2d(keys), jnp.atleast_2d(values)
        keys = as_rows("keys", keys, self.whitener.width)
        expected = (len(keys), self.kernel.shape[1])
        if values.shape != expected:
            raise ValueError(f"values: expected shape {expected}, found {values.shape}")
        capacity = len(self.white)
        if not holds_or_traced(self.count + len(keys) <= capacity):
            raise ValueError(
                f"keys: expected at most {capacity - int(self.count)}, the rows still free, found "
                f"{len(keys)}; make the editor with a larger capacity"
            )
        return _add(self, keys, values)

    def undo(self, steps: int | Array = 1) -> Editor:
        """The state before the last edits, bit for bit; `steps` beyond the first undo all.

        Raises:
          ValueError: if `steps` is negative (under `jit`: undoes none).
        """
        if not holds_or_traced(jnp.asarray(steps) >= 0):
            raise ValueError(f"steps: expected the number of edits to undo, found {steps}")
        count = jnp.maximum(self.count - jnp.maximum(jnp.asarray(steps, jnp.int32), 0), 0)
        kept = (jnp.arange(len(self.white), dtype=jnp.int32) < count)[:, None]
        rows = {
            name: jnp.where(kept, getattr(self, name), 0)
            for name in ("white", "along", "residuals", "requested")
        }
        return dataclasses.replace(self, count=count, **rows)


@jax.jit
def _add(editor: Editor, keys: Array, values: Array) -> tuple[Editor, Added]:
    dtype, extended = editor.white.dtype, editor.whitener.extended
    inner = functools.partial(products.inner, extended=extended)
    keys, values = keys.astype(dtype), values.astype(dtype)
    rows = editor.count + jnp.arange(len(keys), dtype=jnp.int32)

    white = editor.whitener.whiten(keys)
    lengths = jnp.linalg.norm(white, axis=1)
    requested = values - inner(keys, editor.kernel.astype(dtype).T)
    sound = (lengths > 0) & jnp.isfinite(lengths) & (rows < len(editor.white))
    sound &= jnp.all(jnp.isfinite(requested), axis=1)
    lengths = jnp.where(sound, lengths, 1)[:, None]
    unit = jnp.where(sound[:, None], white / lengths, 0)

    def write(old: Array, new: Array) -> Array:
        return old.at[rows].set(new, mode="drop")

    cosines = jnp.abs(write(inner(editor.white, unit), jnp.triu(inner(unit, unit), 1)))
    strongest = jnp.max(cosines, axis=0)
    if editor.rule == "sequential":
        accepted, overlap, along = sound, jnp.minimum(strongest**2, 1), unit / lengths
    else:
        own, left = _own_parts(editor, unit)
        accepted, overlap = sound & jnp.any(own != 0, axis=1), jnp.where(sound, 1 - left, 0)
        reach = jnp.where(accepted, jnp.sum(own * unit, axis=1), 1)[:, None]
        along = jnp.where(accepted[:, None], own / (reach * lengths), 0)
    requested = jnp.where(accepted[:, None], requested, 0)
    unmet = requested - landed(editor.along, editor.residuals, unit * lengths, extended=extended)
    unmet = jnp.where(accepted[:, None], unmet, 0)
    return dataclasses.replace(
        editor,
        white=write(editor.white, jnp.where(accepted[:, None], unit, 0)),
        along=write(editor.along, along),
        residuals=write(
            editor.residuals, residuals_met(along, unit * lengths, unmet, extended=extended)
        ),
        requested=write(editor.requested, requested),
        count=jnp.minimum(editor.count + len(keys), len(editor.white)),
    ), Added(
        accepted,
        overlap,
        jnp.where(strongest > 0, jnp.argmax(cosines, axis=0).astype(jnp.int32), -1),
    )


def _own_parts(editor: Editor, unit: Array) -> tuple[Array, Array]:
    """What keys have to themselves, orthonormal, `(b, r)`; and its squared length before that."""
    squares = jnp.sum(editor.along**2, axis=1, keepdims=True)
    earlier = editor.along * jax.lax.rsqrt(jnp.where(squares > 0, squares, 1))
    inner = functools.partial(products.inner, extended=editor.whitener.extended)
    own = unit
    for _ in range(2):
        own = own - inner(inner(own, earlier), earlier.T)
    own, left = orthonormal(own, editor.tolerance)
    return orthonormal(own, editor.tolerance)[0], left  # and twice within the block, too
