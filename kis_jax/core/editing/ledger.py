"""An edit as a ledger: one direction and one residual for each fact."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from kis_jax.core.arrays.checks import as_rows, holds_or_traced
from kis_jax.core.arrays.mesh import rows_whole
from kis_jax.core.arrays.products import inner
from kis_jax.core.arrays.pytrees import pytree
from kis_jax.core.arrays.successive import residuals_met
from kis_jax.core.editing.rules import TOGETHER


@pytree
@dataclasses.dataclass(frozen=True, eq=False)
class Edit:
    r"""What n edits add to one kernel: $\Delta = \sum_i w_i \otimes x_i$, of rank n at most.

    Each direction is normalised by the key that it was made for, $w_i \cdot k_i = 1$, so that
    $w_i \cdot k$ is the share of edit i that lands on any key k, and a residual has the units of
    values. Where edits have an order (`edit_rank_one`, `edit_sequential`, `edit_constrained`,
    `Editor`), row i is the update that edit i makes to the kernel that the edits before it left,
    and `edit[:t]` is exactly the edit of the first t facts. Of several layers at once, by
    `jax.vmap`, all fields have an axis in front; then it is `edit.first(t)`.

    Attributes:
      directions: $w_i$, `(n, d)`. Sequential: $C^{-1} k_i / k_i^\top C^{-1} k_i$.
      residuals: $x_i$, `(n, m)`: what the edit writes along its direction. For edits with an
        order, the part of the value asked for that was still missing when its turn came.
      initial_residuals: `(n, m)`: what was missing before any edit, $v_i - k_i W_0$; None if that
        is not known.
      rule: the name of the rule it came from; "batch" and "null_space" are solved together.
      extended: whether products with the ledger are rounded only at their end, as an edit by a
        "refined" whitener deserves.

    Examples:
      >>> import jax.numpy as jnp
      >>> edit = Edit(jnp.array([[1.0, 0.0]]), jnp.array([[2.0, 3.0]]))
      >>> edit.delta
      Array([[2., 3.],
             [0., 0.]], dtype=float32)

    Reference: Hu et al. 2024 (arXiv 2408.07413), eqs. 9 to 12.
    """

    directions: Array
    residuals: Array
    initial_residuals: Array | None = None
    rule: str = dataclasses.field(default="sequential", metadata={"static": True})
    extended: bool = dataclasses.field(default=False, metadata={"static": True})

    @property
    def requested(self) -> Float[Array, "*layers n m"] | None:
        """The name of `initial_residuals` in version 0.1."""
        return self.initial_residuals

    @property
    def delta(self) -> Float[Array, "d m"]:
        """What is added to the kernel, `(d, m)`."""
        return inner(self.directions.T, self.residuals.T, extended=self.extended)

    def apply(self, kernel: Float[Array, "d m"]) -> Float[Array, "d m"]:
        """The edited kernel, `(d, m)`, in the dtype of `kernel`; added up in the wider of the two.

        Raises:
          ValueError: if the kernel has another shape than the edit, or is not of floats.
        """
        kernel = jnp.asarray(kernel)
        if not jnp.issubdtype(kernel.dtype, jnp.floating):
            raise ValueError(f"kernel: expected floating-point numbers, found {kernel.dtype}")
        expected = (self.directions.shape[-1], self.residuals.shape[-1])
        if kernel.shape != expected:
            raise ValueError(
                f"kernel: expected shape {expected}, keys by values, found {kernel.shape}; apply "
                "an edit to the layer that it was made for (torch's Linear stores the transpose)"
            )
        delta = self.delta
        wide = max(kernel.dtype, delta.dtype, key=lambda dtype: dtype.itemsize)
        return (kernel.astype(wide) + delta.astype(wide)).astype(kernel.dtype)

    def __len__(self) -> int:
        """Number of edits, n."""
        return self.directions.shape[-2]

    def __getitem__(self, index: slice) -> Edit:
        """The first edits, `edit[:t]`, exactly as if no others had been asked for.

        Raises:
          ValueError: for edits that were solved together, an index that is not a prefix, or an
            edit of several layers at once.
        """
        if not isinstance(index, slice) or index.start not in (None, 0) or index.step is not None:
            raise ValueError(
                f"edit[...]: expected a prefix [:t], found {index!r}; for other facts or another "
                "order use kis.reorder"
            )
        if self.directions.ndim != 2:
            raise ValueError(
                f"edit[:t]: expected an edit of one kernel, found directions of shape "
                f"{self.directions.shape}; of several use edit.first(t)"
            )
        return self.first(index.stop)

    def first(self, t: int | None) -> Edit:
        """The first t edits, of each kernel where there are several; None for all, as in `[:t]`.

        Raises:
          ValueError: for edits that were solved together.
        """
        if self.rule in TOGETHER:
            raise ValueError(
                f"edit[:t]: expected edits made one after another, found rule {self.rule!r}, whose "
                "edits are solved together; edit the first facts alone"
            )
        rows = (self.directions, self.residuals, self.initial_residuals)
        names = ("directions", "residuals", "initial_residuals")
        kept = [None if row is None else row[..., :t, :] for row in rows]
        return dataclasses.replace(self, **dict(zip(names, kept, strict=True)))


def reorder(edit: Edit, keys: Float[Array, "n d"], order: Int[Array, " t"]) -> Edit:
    """The sequential edit of some of the facts, or of all of them in another order.

    Answered from the ledger alone, without kernel or model: the shares of P are products of the
    directions with the keys. Leaving a fact out undoes its edit and all that followed from it.

    Args:
      edit: of `edit_sequential`.
      keys: of the edited facts, `(n, d)`, in the order in which they were edited.
      order: `(t,)` int, rows of `edit`, each at most once, in the order wanted.

    Returns:
      An `Edit` of t rows.

    Raises:
      ValueError: if the edit is not sequential, these cannot be its keys, or an index is wrong.

    Examples:
      >>> import jax.numpy as jnp
      >>> from kis_jax.core.editing.edits import edit_sequential
      >>> from kis_jax.core.geometry.whitening import whitener
      >>> keys, values = jnp.array([[1.0, 0.0], [1.0, 1.0]]), jnp.array([[1.0], [0.0]])
      >>> edit = edit_sequential(jnp.zeros((2, 1)), keys, values, whitener(jnp.eye(2)))
      >>> reorder(edit, keys, jnp.array([1, 0])).residuals
      Array([[0.],
             [1.]], dtype=float32)

    Reference: Hu et al. 2024 (arXiv 2408.07413), eqs. 9 to 12.
    """
    if edit.rule != "sequential" or edit.initial_residuals is None:
        raise ValueError(
            f"edit: expected one of edit_sequential, found rule {edit.rule!r}"
            f"{'' if edit.initial_residuals is not None else ' without initial residuals'}; edit "
            "the facts anew in the order wanted"
        )
    keys = rows_whole(as_rows("keys", keys, None))
    if keys.shape != edit.directions.shape:
        raise ValueError(
            f"keys: expected the edited ones, of shape {edit.directions.shape}, found {keys.shape}"
        )
    order = jnp.asarray(order)
    if order.ndim != 1 or not jnp.issubdtype(order.dtype, jnp.integer):
        raise ValueError(f"order: expected a row of integers, found {order.dtype}{order.shape}")
    ordered = jnp.sort(order)
    within = jnp.all((order >= 0) & (order < edit.directions.shape[0]))
    if not holds_or_traced(within & jnp.all(ordered[1:] != ordered[:-1])):
        raise ValueError(
            f"order: expected rows 0 to {len(edit) - 1}, each at most once, found {order}"
        )
    directions, initial = (
        rows_whole(jnp.asarray(rows))[order] for rows in (edit.directions, edit.initial_residuals)
    )
    keys = keys[order].astype(directions.dtype)
    residuals = residuals_met(directions, keys, initial, extended=edit.extended)
    return dataclasses.replace(
        edit, directions=directions, residuals=residuals, initial_residuals=initial
    )
