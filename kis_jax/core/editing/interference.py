"""What edits move that nobody asked for, and how it grows, known before the model is touched."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from kis_jax.core.arrays.checks import as_real, as_rows
from kis_jax.core.arrays.mesh import rows_whole
from kis_jax.core.arrays.products import matmul
from kis_jax.core.arrays.pytrees import pytree
from kis_jax.core.arrays.successive import landed, triangular_residuals
from kis_jax.core.editing.ledger import Edit


def interference(edit: Edit, keys: Float[Array, "q d"]) -> Float[Array, "q m"]:
    r"""How far the values of keys that nobody edited are moved.

    $\sum_i p(k_i, k) x_i$, the sum over all edits of the share that lands on the key; for every
    kind of edit it is $k \Delta$.

    Args:
      edit: any `Edit`.
      keys: `(q, d)`.

    Returns:
      `(q, m)`, to be added to the values that the keys had.

    Raises:
      ValueError: if the keys have another width than the edit.

    Examples:
      >>> import jax.numpy as jnp
      >>> edit = Edit(jnp.array([[1.0, 0.0]]), jnp.array([[2.0, 3.0]]))
      >>> interference(edit, jnp.array([[0.5, 7.0]]))
      Array([[1. , 1.5]], dtype=float32)

    Reference: Hu et al. 2024 (arXiv 2408.07413), eq. 13.
    """
    directions = jnp.asarray(edit.directions)  # those of a ledger are NumPy's, in float64
    keys = as_rows("keys", keys, directions.shape[1]).astype(directions.dtype)
    return landed(directions, edit.residuals, keys, extended=edit.extended)


def text_damage(
    edit: Edit,
    kernel: Float[Array, "d m"],
    second_moment: Float[Array, "d d"] | Float[Array, "e d/e d/e"],
) -> Float[Array, ""]:
    r"""What an edit is to cost on ordinary text, before any text is read by the edited model.

    $\mathrm{tr}(\Delta^\top C \Delta) / \mathrm{tr}(W^\top C W)$: the mean square of how far the
    layer's answer to a token of ordinary text moves, as a share of the mean square of the answer.

    Args:
      edit: any `Edit`.
      kernel: W, before it, `(d, m)`.
      second_moment: C, `(d, d)`; or, of a mixture, the blocks on its diagonal, those of its
        experts. What two experts that read the same token do together is left out then.

    Returns:
      A scalar, 0 or more.

    Example:
      >>> import jax.numpy as jnp
      >>> edit = Edit(jnp.array([[1.0, 0.0]]), jnp.array([[2.0]]))
      >>> float(text_damage(edit, jnp.array([[1.0], [1.0]]), jnp.diag(jnp.array([1.0, 3.0]))))
      1.0
    """
    along = jnp.asarray(edit.directions)
    residuals = jnp.asarray(edit.residuals, along.dtype)
    c, kernel = (jnp.asarray(each, along.dtype) for each in (second_moment, kernel))
    blocks = c[None] if c.ndim == 2 else c
    products, moved, size = matmul(residuals, residuals.T), 0.0, 0.0
    parts = jnp.split(along, len(blocks), axis=1), jnp.split(kernel, len(blocks))
    for c, along, kernel in zip(blocks, *parts, strict=True):
        moved += jnp.sum(matmul(matmul(along, c), along.T) * products)
        size += jnp.sum(kernel * matmul(c, kernel))
    return jnp.maximum(moved, 0) / size


def interference_on_edited(edit: Edit, keys: Float[Array, "n d"]) -> Float[Array, "n m"]:
    r"""How far each edited fact ends from the value asked of it.

    For sequential edits $\sum_{i>j} p(k_i, k_j) x_i$, what later edits did to edit j; nothing for
    constrained ones, up to rounding; for regularised ones also what the penalty held back.

    Args:
      edit: any `Edit` with its initial residuals, as those of this library do.
      keys: of the edited facts, `(n, d)`, in the order in which they were edited.

    Returns:
      `(n, m)`: value found less value asked for.

    Raises:
      ValueError: if these cannot be the keys of the edit, or its initial residuals are not known.

    Examples:
      >>> import jax.numpy as jnp
      >>> from kis_jax.core.editing.edits import edit_sequential
      >>> from kis_jax.core.geometry.whitening import whitener
      >>> keys, values = jnp.array([[1.0, 0.0], [1.0, 1.0]]), jnp.array([[1.0], [0.0]])
      >>> edit = edit_sequential(jnp.zeros((2, 1)), keys, values, whitener(jnp.eye(2)))
      >>> interference_on_edited(edit, keys)
      Array([[-0.5],
             [ 0. ]], dtype=float32)

    Reference: Hu et al. 2024 (arXiv 2408.07413), eq. 15.
    """
    if edit.initial_residuals is None:
        raise ValueError(
            "edit: expected one with its initial residuals, found initial_residuals=None; take the "
            "edit from one of kis.edit_..."
        )
    keys, n = as_rows("keys", keys, None), edit.directions.shape[0]
    if keys.shape[0] != n:
        raise ValueError(f"keys: expected the {n} keys that were edited, found {keys.shape[0]}")
    return interference(edit, keys) - edit.initial_residuals


@pytree
@dataclasses.dataclass(frozen=True, eq=False)
class Forecast:
    """How the harm of sequential edits grows with their number, foreseen.

    Row t - 1 of the distances stands for the kernel after t edits. A distance is a norm of m
    numbers, in the units of values. They are computed as sums of squares, so that a distance far
    below the ones that cancelled in it has half of the digits.

    Attributes:
      residuals: `(n, m)`, what each edit will meet.
      on_edited: `(n, n)`, how far edit j is from the value asked of it; zero until later edits.
      on_others: `(n, q)`, how far the value of an untouched key is moved; None without such keys.
    """

    residuals: Array
    on_edited: Array
    on_others: Array | None


@jax.jit
def forecast(
    superposition: Float[Array, "n n"],
    initial_residuals: Float[Array, "n m"],
    superposition_on_others: Float[Array, "n q"] | None = None,
) -> Forecast:
    r"""The interference of sequential edits after 1, 2, ... n of them, from P alone.

    Needs no kernel and no model: all follows from the superposition of the facts and from the
    residuals before the first edit. Another order or a part of the facts is the same question
    about `superposition[order][:, order]`.

    Args:
      superposition: P, `(n, n)`, in the order of the edits.
      initial_residuals: `(n, m)`: values asked for, less the values that the model gives now.
      superposition_on_others: `(n, q)`, P of the edits with keys to be left alone.

    Returns:
      A `Forecast`. Costs a few products of `(n, n)` matrices for all n prefixes together.

    Raises:
      ValueError: if the shapes do not agree.

    Examples:
      >>> import jax.numpy as jnp
      >>> p = jnp.array([[1.0, 0.5], [0.25, 1.0]])
      >>> forecast(p, jnp.array([[4.0], [0.0]])).on_edited  # the second edit undoes half a unit
      Array([[0. , 0. ],
             [0.5, 0. ]], dtype=float32)

    Reference: Hu et al. 2024 (arXiv 2408.07413), eqs. 13 and 15, appendix H.
    """
    superposition = rows_whole(as_real("superposition", superposition, wide=True))
    initial = as_real("initial_residuals", initial_residuals).astype(superposition.dtype)
    initial = rows_whole(initial)
    n = superposition.shape[0] if superposition.ndim else 0
    if superposition.shape != (n, n):
        raise ValueError(f"superposition: expected shape (n, n), found {superposition.shape}")
    if initial.ndim != 2 or initial.shape[0] != n:
        raise ValueError(
            f"initial_residuals: expected shape ({n}, m), one for each fact, found {initial.shape}"
        )
    others = superposition_on_others
    if others is not None:
        others = as_real("superposition_on_others", others).astype(superposition.dtype)
        others = rows_whole(others)
    if others is not None and (others.ndim != 2 or others.shape[0] != n):
        raise ValueError(
            f"superposition_on_others: expected shape ({n}, q), a row for each edit, "
            f"found {others.shape}"
        )
    residuals = triangular_residuals(superposition, initial)
    return Forecast(
        residuals,
        _growth(jnp.tril(superposition, -1), residuals),
        None if others is None else _growth(others, residuals),
    )


def _growth(shares: Array, residuals: Array) -> Array:
    r"""Norms of $\sum_{i \le t} s_{ij} x_i$ for every t and j, `(n, q)`.

    Each square grows by $s_{tj}^2 |x_t|^2 + 2 s_{tj} \sum_{i<t} s_{ij} x_i \cdot x_t$: products
    with the Gram matrix of the residuals, and a running sum.
    """
    products = matmul(residuals, residuals.T)
    before = matmul(jnp.tril(products, -1), shares)
    growth = shares * (2 * before + jnp.diagonal(products)[:, None] * shares)
    squares = jnp.cumsum(growth, axis=0)
    none = squares <= 0  # by rounding; a NaN is not, and stays
    return jnp.where(none, 0, jnp.sqrt(jnp.where(none, 1, squares)))
