"""Editing as facts come in: a state of fixed size, to which edits are added and undone."""

from __future__ import annotations

import dataclasses
import functools
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from kis_jax.core import products
from kis_jax.core.checks import as_rows, known_to_hold
from kis_jax.core.ledger import Edit
from kis_jax.core.successive import orthonormal, triangular_residuals
from kis_jax.core.whitening import Whitener


class Added(NamedTuple):
    """What an editor says of the edits it was given.

    Attributes:
      accepted: `(b,)` bool; an edit that was not accepted changes nothing.
      overlap: `(b,)`, how far earlier edits speak for the new key. Sequential: the largest
        $|p(k_i, k)|$ over the edits before it. Constrained: the share of the whitened key's
        squared length within the span of theirs. Near 1: a near-duplicate.
      nearest: `(b,)` int, the earlier edit with the largest share in the new key; -1 if none has.
    """

    accepted: Array
    overlap: Array
    nearest: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Editor:
    r"""A kernel, and the edits made to it so far, with room for a fixed number of them.

    Made by `Editor.init`; `add` and `undo` return new states of the same shapes, so that it can be
    the carry of `jax.lax.scan`. The kernel itself stays as it was: an edit takes O(n d) operations
    against the n edits before it, besides whitening its key and reading its value, and undoing it
    restores the former state bit for bit. `edit` is the ledger so far.

    Two rules. "sequential" is the paper's, each edit a rank-one update of the kernel that the last
    one left: equal to `edit_sequential`. "constrained" makes each edit along the part of its
    direction that no earlier one has spoken for, so that all values stay exact: equal to
    `edit_constrained`. (Gram and Schmidt's orthogonalisation, done twice, in place of growing a
    Cholesky factor of the Gram matrix: the same cost, and stable for keys that are nearly alike.)

    Attributes:
      kernel: before all edits, `(d, m)`.
      whitener: of the layer's second moment.
      white: whitened directions, one edit a row, `(capacity, r)`; zeros beyond `count`.
      residuals: `(capacity, m)`, what each edit writes.
      requested: `(capacity, m)`, what its value lacked before any edit.
      count: `()` int, edits so far.
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
    residuals: Array
    requested: Array
    count: Array
    tolerance: Array
    rule: Literal["sequential", "constrained"] = dataclasses.field(metadata={"static": True})

    @classmethod
    def init(
        cls,
        kernel: Array,
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
            earlier keys must leave to it; below, the edit would have to shout. None: the root of
            the machine epsilon.

        Raises:
          ValueError: if the kernel is not of the whitener's width, or another argument is wrong.
        """
        d, dtype = whitener.width, whitener.factor.dtype
        if kernel.ndim != 2 or kernel.shape[0] != d:
            raise ValueError(f"kernel: expected shape ({d}, m), found {kernel.shape}")
        if capacity < 1:
            raise ValueError(f"capacity: expected at least 1 edit, found {capacity}")
        if rule not in ("sequential", "constrained"):
            raise ValueError(f'rule: expected "sequential" or "constrained", found {rule!r}')
        # Zeros of the data: within `shard_map` they vary over the mesh as what is written will.
        zero = jnp.zeros_like(whitener.factor[0, 0]) + jnp.zeros_like(kernel[0, 0], dtype)
        ledger = jnp.broadcast_to(zero, (capacity, kernel.shape[1]))
        return cls(
            kernel,
            whitener,
            jnp.broadcast_to(zero, (capacity, whitener.factor.shape[1])),
            ledger,
            ledger,
            jnp.zeros((), jnp.int32),
            jnp.asarray(jnp.finfo(dtype).eps ** 0.5 if tolerance is None else tolerance, dtype),
            rule,
        )

    @property
    def edit(self) -> Edit:
        """The ledger so far, as an `Edit` of `capacity` rows, those still free being zeros."""
        directions = self.whitener.directions(self.white)
        extended = self.whitener.extended
        return Edit(directions, self.residuals, self.requested, self.rule, extended)

    def add(self, keys: Array, values: Array) -> tuple[Editor, Added]:
        """Adds one edit, or a block of edits in their order.

        Each edit takes a row of the ledger, accepted or not: zeros if its key is zero, not finite
        or (constrained) spoken for by earlier ones, or if its value is not finite.

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
        if not known_to_hold(self.count + len(keys) <= capacity):
            raise ValueError(
                f"keys: expected at most {capacity - int(self.count)}, the rows still free, found "
                f"{len(keys)}; make the editor with a larger capacity"
            )
        return _add(self, keys, values)

    def undo(self, steps: int | Array = 1) -> Editor:
        """The state before the last edits, bit for bit; `steps` beyond the first undo all."""
        count = jnp.maximum(self.count - steps, 0)
        kept = (jnp.arange(len(self.white)) < count)[:, None]
        white, residuals, requested = (
            jnp.where(kept, rows, 0) for rows in (self.white, self.residuals, self.requested)
        )
        return dataclasses.replace(
            self, white=white, residuals=residuals, requested=requested, count=count
        )


@jax.jit
def _add(editor: Editor, keys: Array, values: Array) -> tuple[Editor, Added]:
    dtype = editor.white.dtype
    keys, values = keys.astype(dtype), values.astype(dtype)
    rows = editor.count + jnp.arange(len(keys), dtype=jnp.int32)
    white = editor.whitener.whiten(keys)
    inner = functools.partial(products.inner, extended=editor.whitener.extended)
    requested = values - inner(keys, editor.kernel.astype(dtype).T)
    squares = jnp.sum(white * white, axis=1)
    sound = (squares > 0) & jnp.all(jnp.isfinite(white), axis=1)
    sound &= jnp.all(jnp.isfinite(requested), axis=1) & (rows < len(editor.white))
    white, requested = (jnp.where(sound[:, None], x, 0) for x in (white, requested))
    spoken_for = None
    if editor.rule == "sequential":
        along, accepted = white / jnp.where(sound, squares, 1)[:, None], sound
    else:
        along, accepted, spoken_for = _own_parts(editor, white, sound)
    requested = jnp.where(accepted[:, None], requested, 0)

    shares = inner(editor.white, white)  # of earlier edits in the new keys
    among = jnp.triu(inner(along, white), 1)
    met = requested - inner(shares.T, editor.residuals.T)
    residuals = triangular_residuals(among, jnp.where(accepted[:, None], met, 0))

    def write(old: Array, new: Array) -> Array:
        return old.at[rows].set(new, mode="drop")

    strengths = jnp.abs(write(shares, among))
    strongest = jnp.max(strengths, axis=0)
    overlap = strongest if spoken_for is None else spoken_for
    nearest = jnp.where(strongest > 0, jnp.argmax(strengths, axis=0), -1)
    return dataclasses.replace(
        editor,
        white=write(editor.white, along),
        residuals=write(editor.residuals, residuals),
        requested=write(editor.requested, requested),
        count=jnp.minimum(editor.count + len(keys), len(editor.white)),
    ), Added(accepted, overlap, nearest)


def _own_parts(editor: Editor, white: Array, sound: Array) -> tuple[Array, Array, Array]:
    """Directions within a block that leave all earlier edits as they are.

    Returns:
      The directions, `(b, r)`; which edits are accepted; how far earlier ones speak for each.
    """
    squares = jnp.sum(editor.white**2, axis=1, keepdims=True)
    earlier = editor.white * jax.lax.rsqrt(jnp.where(squares > 0, squares, 1))
    own = white / jnp.sqrt(jnp.where(sound, jnp.sum(white * white, axis=1), 1))[:, None]
    for _ in range(2):
        own = own - products.matmul(products.matmul(own, earlier.T), earlier)
    own, left = orthonormal(own, editor.tolerance)
    own, _ = orthonormal(own, editor.tolerance)  # and twice within the block, too
    accepted = sound & jnp.any(own != 0, axis=1)
    reach = jnp.where(accepted, jnp.sum(own * white, axis=1), 1)[:, None]
    return own / reach, accepted, jnp.where(sound, 1 - left, 0)
