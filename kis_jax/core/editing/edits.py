"""Knowledge editing in closed form: what to add to a kernel so that keys have new values."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Float

from kis_jax.core.arrays.buckets import in_buckets
from kis_jax.core.arrays.checks import as_rows, checked_kernel, holds_or_traced
from kis_jax.core.arrays.mesh import rows_as, rows_whole
from kis_jax.core.arrays.orthonormal import independent_factor, own_share
from kis_jax.core.arrays.products import inner, matmul
from kis_jax.core.editing.ledger import Edit
from kis_jax.core.editing.rules import (
    Constrained,
    Earlier,
    Ridge,
    Rule,
    Sequential,
    positive,
    solve_in_order,
    solve_together,
)
from kis_jax.core.geometry.spaces import NullSpace, Space, as_space


def edit_rank_one(
    kernel: Float[Array, "d m"],
    key: Float[Array, " d"],
    value: Float[Array, " m"],
    whitener: Space,
) -> Edit:
    r"""One fact: ROME's closed form.

    $\Delta = C^{-1} k \otimes (v - k W) / k^\top C^{-1} k$: of all updates that map k to v exactly,
    the one that moves the values of ordinary text least.

    Args:
      kernel: W, `(d, m)`, values = keys @ kernel.
      key: k, `(d,)`.
      value: v, `(m,)`, the value asked for.
      whitener: of the layer's second moment; or any other `Space`.

    Returns:
      An `Edit` of one row, in the dtype of the whitener.

    Raises:
      ValueError: if shapes do not agree, or the key is zero or not finite.

    Examples:
      >>> import jax.numpy as jnp
      >>> from kis_jax.core.geometry.whitening import whitener
      >>> key, value = jnp.array([3.0, 4.0]), jnp.array([1.0])
      >>> edit = edit_rank_one(jnp.zeros((2, 1)), key, value, whitener(jnp.eye(2)))
      >>> key @ edit.apply(jnp.zeros((2, 1)))
      Array([1.], dtype=float32)

    Reference: Meng et al. 2022 (arXiv 2202.05262), eq. 2; Gupta et al. 2024 (arXiv 2403.07175) on
    one and the same key in all three places.
    """
    key, value = jnp.asarray(key), jnp.asarray(value)
    if key.ndim != 1 or value.ndim != 1:
        raise ValueError(
            f"key, value: expected one fact, shapes (d,) and (m,), found {key.shape} and "
            f"{value.shape}; for several use edit_sequential"
        )
    return edit_sequential(kernel, key[None], value[None], whitener)


def edit_sequential(
    kernel: Float[Array, "d m"],
    keys: Float[Array, "n d"],
    values: Float[Array, "n m"],
    whitener: Space,
) -> Edit:
    r"""The paper's lifelong edit: n rank-one edits, each on the kernel that the last one left.

    The residuals solve $\mathrm{triu}(P)^\top X = V - K W_0$, a unit-triangular system; with them
    $W_n = W_0 + \sum_i C^{-1} k_i \otimes x_i / k_i^\top C^{-1} k_i$. The result is that of the
    loop, at the cost of a few matrix products. Later edits spoil earlier ones; see
    `interference_on_edited`.

    Args:
      kernel: $W_0$, `(d, m)`.
      keys: K, `(n, d)`, in the order of the edits.
      values: V, `(n, m)`, the values asked for.
      whitener: of the layer's second moment; or any other `Space`.

    Returns:
      An `Edit` of n rows; `edit[:t]` is the edit of the first t facts.

    Raises:
      ValueError: if shapes do not agree, or a key is zero or anything is not finite.

    Examples:
      >>> import jax.numpy as jnp
      >>> from kis_jax.core.geometry.whitening import whitener
      >>> keys, values = jnp.array([[1.0, 0.0], [1.0, 1.0]]), jnp.array([[1.0], [0.0]])
      >>> edit = edit_sequential(jnp.zeros((2, 1)), keys, values, whitener(jnp.eye(2)))
      >>> keys @ edit.apply(jnp.zeros((2, 1)))  # the second edit took half of the first away
      Array([[0.5],
             [0. ]], dtype=float32)

    Reference: Hu et al. 2024 (arXiv 2408.07413), eqs. 9 to 12.
    """
    return _edit(kernel, keys, values, whitener, Sequential())


def edit_constrained(
    kernel: Float[Array, "d m"],
    keys: Float[Array, "n d"],
    values: Float[Array, "n m"],
    whitener: Space,
    *,
    tolerance: float | Float[Array, ""] | None = None,
) -> Edit:
    r"""All n facts exactly at once: EMMET's closed form.

    $\Delta = C^{-1} K^\top (K C^{-1} K^\top)^{-1} (V - K W)$: of all updates that map every key to
    its value, the one that moves the values of ordinary text least. As a ledger in the order of
    the facts: each edit is made along the part of its direction that no earlier edit has spoken
    for, so that it leaves these exact, and `edit[:t]` is the constrained edit of the first t.

    Args:
      kernel: W, `(d, m)`.
      keys: K, `(n, d)`, linearly independent.
      values: V, `(n, m)`, the values asked for.
      whitener: of the layer's second moment; or any other `Space`.
      tolerance: the least share of a whitened key's squared length that earlier keys must leave
        to it. None: the root of the machine epsilon.

    Returns:
      An `Edit` of n rows.

    Raises:
      ValueError: if shapes do not agree, anything is not finite, or a key is, to the tolerance, a
        combination of the earlier ones, such as a duplicate: no sensible kernel then fits all
        values. Under `jit`: NaN.

    Examples:
      >>> import jax.numpy as jnp
      >>> from kis_jax.core.geometry.whitening import whitener
      >>> keys, values = jnp.array([[1.0, 0.0], [1.0, 1.0]]), jnp.array([[1.0], [0.0]])
      >>> edit = edit_constrained(jnp.zeros((2, 1)), keys, values, whitener(jnp.eye(2)))
      >>> (keys @ edit.apply(jnp.zeros((2, 1)))).round(3)
      Array([[1.],
             [0.]], dtype=float32)

    Reference: Gupta et al. 2024 (arXiv 2403.14236), eq. 9.
    """
    tolerance = own_share(as_space("whitener", whitener).dtype, tolerance)
    return _edit(kernel, keys, values, whitener, Constrained(tolerance))


def edit_batch(
    kernel: Float[Array, "d m"],
    keys: Float[Array, "n d"],
    values: Float[Array, "n m"],
    whitener: Space,
    weight: float | Float[Array, ""],
    previous: Float[Array, "p d"] | None = None,
) -> Edit:
    r"""All n facts in least squares, against ordinary text: MEMIT's closed form.

    $\Delta = (w C + K^\top K)^{-1} K^\top (V - K W)$, by the identity
    $C^{-1} K^\top (K C^{-1} K^\top + w I)^{-1} (V - K W)$: a system of n, not of d, equations. With
    earlier edits to be kept, their $K_p^\top K_p$ joins the sum inside the inverse.

    Args:
      kernel: W, `(d, m)`.
      keys: K, `(n, d)`.
      values: V, `(n, m)`, the values asked for.
      whitener: of the layer's second moment; or any other `Space`.
      weight: w, positive: how many tokens of ordinary text weigh as much as a fact. Relaxed EMMET
        with weight a and relaxation e is this with w = a e.
      previous: keys of earlier batches, $K_p$, `(p, d)`, whose values should stay.

    Returns:
      An `Edit` of n rows, solved together: prefixes of it have no meaning.

    Raises:
      ValueError: if shapes do not agree, `weight` is not positive, or anything is not finite.

    Examples:
      >>> import jax.numpy as jnp
      >>> from kis_jax.core.geometry.whitening import whitener
      >>> keys, values = jnp.array([[1.0, 0.0], [1.0, 1.0]]), jnp.array([[1.0], [0.0]])
      >>> edit = edit_batch(jnp.zeros((2, 1)), keys, values, whitener(jnp.eye(2)), 1.0)
      >>> edit.apply(jnp.zeros((2, 1))).round(3)  # the least of |W|^2 + |K W - V|^2
      Array([[ 0.4],
             [-0.2]], dtype=float32)

    Reference: Meng et al. 2023 (arXiv 2210.07229), eq. 14; Gupta et al. 2024 (arXiv 2403.14236).
    """
    rule = Ridge(positive("weight", weight, as_space("whitener", whitener).dtype))
    return _edit(kernel, keys, values, whitener, rule, previous, together="batch")


def edit_null_space(
    kernel: Float[Array, "d m"],
    keys: Float[Array, "n d"],
    values: Float[Array, "n m"],
    projector: Float[Array, "d d"] | NullSpace,
    ridge: float | Float[Array, ""],
    previous: Float[Array, "p d"] | None = None,
) -> Edit:
    r"""All n facts in least squares, within directions that ordinary text leaves free: AlphaEdit.

    $\Delta = (N (K^\top K + K_p^\top K_p) + r I)^{-1} N K^\top (V - K W)$, through systems of n
    and p equations. It is MEMIT with $C^{-1}$ replaced by N, and w by r.

    Args:
      kernel: W, `(d, m)`.
      keys: K, `(n, d)`.
      values: V, `(n, m)`, the values asked for.
      projector: of `null_space`; or N, `(d, d)`, symmetric and idempotent.
      ridge: r, positive.
      previous: keys of the earlier batches of a sequence, $K_p$, `(p, d)`; None for the first.

    Returns:
      An `Edit` of n rows, solved together: prefixes of it have no meaning.

    Raises:
      ValueError: if shapes do not agree, `ridge` is not positive, `projector` is not a projector,
        or anything is not finite.

    Examples:
      >>> import jax.numpy as jnp
      >>> free = jnp.diag(jnp.array([0.0, 1.0]))
      >>> keys, values = jnp.array([[1.0, 1.0]]), jnp.array([[3.0]])
      >>> edit_null_space(jnp.zeros((2, 1)), keys, values, free, 0.5).delta.round(3)
      Array([[0.],
             [2.]], dtype=float32)

    Reference: Fang et al. 2025 (arXiv 2410.02355), eq. 14.
    """
    space = projector if isinstance(projector, NullSpace) else NullSpace(jnp.asarray(projector))
    d = space.shape[-1] if space.shape else 0
    if space.shape != (d, d) or space.dtype not in (jnp.float32, jnp.float64):
        raise ValueError(
            "projector: expected shape (d, d), in float32 or float64, found "
            f"{space.dtype}{space.shape}"
        )
    rule = Ridge(positive("ridge", ridge, space.dtype))
    if not holds_or_traced(_is_projector(space.projector)):
        raise ValueError(
            "projector: expected a symmetric matrix N with N @ N = N, found another; use "
            "kis.null_space(second_moment), which makes one"
        )
    return _edit(kernel, keys, values, space, rule, previous, together="null_space")


def _closed_form(
    keys: Array,
    values: Array,
    previous: Array | None,
    count: Array | None,
    kernel: Array,
    space: Space,
    rule: Rule,
    *,
    together: str = "",
) -> tuple[Edit, Array]:
    """The edit by a rule, or under the name `together` as one system; and which rows are sound.

    Beyond a count, rows are zeros that make no edits.
    """
    dtype, extended = space.dtype, space.extended
    keys = keys.astype(dtype)
    initial = values.astype(dtype) - inner(keys, kernel.astype(dtype).T, extended=extended)
    z, earlier = rows_whole(space.coordinates(keys)), None
    laid_out, initial = initial, rows_whole(initial)
    if previous is not None:
        before = rows_whole(space.coordinates(previous))
        nothing = jnp.zeros_like(before[:, :1])
        found = solve_in_order(rule, before, before, nothing, extended=extended)
        earlier = Earlier(found.along, found.own)
    solve = solve_together if together else solve_in_order
    found = solve(rule, z, z, initial, earlier, extended=extended)  # pyright: ignore
    directions, residuals = space.directions(found.along), found.residuals
    sound = jnp.all(jnp.isfinite(residuals) & jnp.isfinite(directions[:, :1]), axis=1)
    sound &= jnp.all(jnp.isfinite(directions), axis=1)
    if not together:  # a length that overflowed leaves zeros
        sound &= found.accepted & jnp.any(directions != 0, axis=1)
        if count is not None:
            sound |= jnp.arange(sound.shape[0], dtype=jnp.int32) >= count
        residuals = jnp.where(jnp.all(sound), residuals, jnp.nan)
    directions, residuals = (rows_as(rows, laid_out) for rows in (directions, residuals))
    return Edit(directions, residuals, laid_out, together or rule.name, extended), sound


def _edit(
    kernel: ArrayLike,
    keys: ArrayLike,
    values: ArrayLike,
    space: Space,
    rule: Rule,
    previous: ArrayLike | None = None,
    *,
    together: str = "",
) -> Edit:
    """The same, its arguments checked, and its numbers where they are known."""
    keys = as_rows("keys", keys, as_space("whitener", space).width)
    kernel = checked_kernel(jnp.asarray(kernel), space.width)
    values = as_rows("values", values, None)
    if values.shape != (keys.shape[0], kernel.shape[1]):
        raise ValueError(
            f"values: expected shape {(keys.shape[0], kernel.shape[1])}, one value for each key, "
            f"found {values.shape}"
        )
    if previous is not None:
        previous = as_rows("previous", previous, space.width)
    given = keys, values, previous
    count = None if isinstance(keys, Tracer) else np.int32(keys.shape[0])
    options: dict[str, Any] = {"rows": 3, "together": together}
    edit, sound = in_buckets(_closed_form, *given, count, kernel, space, rule, **options)
    if isinstance(sound, Tracer) or np.asarray(sound).all():
        return edit
    assert edit.initial_residuals is not None
    wrong = ~jnp.all(jnp.isfinite(edit.initial_residuals), axis=1) | ~jnp.any(keys != 0, axis=1)
    if isinstance(rule, Constrained) and not jnp.any(wrong):
        _refuse_dependent(space.coordinates(keys.astype(space.dtype)), rule)
    found = (
        f"row {jnp.argmax(wrong)} zero or not finite"
        if jnp.any(wrong)
        else "an update beyond the range of its dtype; scale the keys, or see to the second moment"
    )
    raise ValueError(f"keys, values: expected finite numbers and no key of zeros, found {found}")


def _refuse_dependent(z: Array, rule: Constrained) -> None:
    """Raises ValueError if keys, in coordinates, depend on one another to a rule's tolerance."""
    z = jax.lax.stop_gradient(z)  # under `grad` too, numbers are known
    unit = z / jnp.linalg.norm(z, axis=1, keepdims=True)
    own = independent_factor(inner(unit, unit), rule.tolerance)[1]
    if bool(jnp.any(own <= rule.tolerance)):
        raise ValueError(
            "keys: expected finite, linearly independent rows, found that row "
            f"{jnp.argmin(own)} has {float(jnp.min(own)):.1e} of its squared length to itself, "
            f"the rest in the span of those before it (tolerance {float(rule.tolerance):.1e}; a "
            "duplicate key, or more facts than dimensions); leave it out, or use edit_batch"
        )


@jax.jit
def _is_projector(matrix: Array) -> Array:
    """Whether N v = N (N v) = N.T v for a random v, up to rounding."""
    vector = jax.random.normal(jax.random.key(0), (len(matrix),), matrix.dtype)
    image = matmul(matrix, vector)
    tolerance = jnp.sqrt(jnp.finfo(matrix.dtype).eps) * jnp.linalg.norm(vector)
    again, mirrored = matmul(matrix, image), matmul(vector, matrix)
    return (
        jnp.maximum(jnp.linalg.norm(again - image), jnp.linalg.norm(mirrored - image)) < tolerance
    )
