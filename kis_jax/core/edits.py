"""Knowledge editing in closed form: what to add to a kernel so that keys have new values."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from kis_jax.core.checks import as_rows, holds_or_traced
from kis_jax.core.ledger import Edit, Rule
from kis_jax.core.orthonormal import orthonormal, own_share
from kis_jax.core.products import inner, matmul
from kis_jax.core.regression import ridge_regression
from kis_jax.core.successive import residuals_met
from kis_jax.core.triangular import solve_columns
from kis_jax.core.whitening import Whitener


def edit_rank_one(kernel: Array, key: Array, value: Array, whitener: Whitener) -> Edit:
    r"""One fact: ROME's closed form.

    $\Delta = C^{-1} k \otimes (v - k W) / k^\top C^{-1} k$: of all updates that map k to v exactly,
    the one that moves the values of ordinary text least.

    Args:
      kernel: W, `(d, m)`, values = keys @ kernel.
      key: k, `(d,)`.
      value: v, `(m,)`, the value asked for.
      whitener: of the layer's second moment.

    Returns:
      An `Edit` of one row, in the dtype of the whitener.

    Raises:
      ValueError: if shapes do not agree, or the key is zero or not finite.

    Example:
      >>> import jax.numpy as jnp
      >>> from kis_jax.core.whitening import whitener
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


def edit_sequential(kernel: Array, keys: Array, values: Array, whitener: Whitener) -> Edit:
    r"""The paper's lifelong edit: n rank-one edits, each on the kernel that the last one left.

    The residuals solve $\mathrm{triu}(P)^\top X = V - K W_0$, a unit-triangular system; with them
    $W_n = W_0 + \sum_i C^{-1} k_i \otimes x_i / k_i^\top C^{-1} k_i$. The result is that of the
    loop, at the cost of a few matrix products. Later edits spoil earlier ones; see
    `interference_on_edited`.

    Args:
      kernel: $W_0$, `(d, m)`.
      keys: K, `(n, d)`, in the order of the edits.
      values: V, `(n, m)`, the values asked for.
      whitener: of the layer's second moment.

    Returns:
      An `Edit` of n rows; `edit[:t]` is the edit of the first t facts.

    Raises:
      ValueError: if shapes do not agree, or a key is zero or anything is not finite.

    Example:
      >>> import jax.numpy as jnp
      >>> from kis_jax.core.whitening import whitener
      >>> keys, values = jnp.array([[1.0, 0.0], [1.0, 1.0]]), jnp.array([[1.0], [0.0]])
      >>> edit = edit_sequential(jnp.zeros((2, 1)), keys, values, whitener(jnp.eye(2)))
      >>> keys @ edit.apply(jnp.zeros((2, 1)))  # the second edit took half of the first away
      Array([[0.5],
             [0. ]], dtype=float32)

    Reference: Hu et al. 2024 (arXiv 2408.07413), eqs. 9 to 12.
    """
    keys, requested = _requested(kernel, keys, values, *_arithmetic(whitener))
    return _checked(_sequential(keys, requested, whitener), keys, requested)


def edit_constrained(
    kernel: Array,
    keys: Array,
    values: Array,
    whitener: Whitener,
    *,
    tolerance: float | Array | None = None,
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
      whitener: of the layer's second moment.
      tolerance: the least share of a whitened key's squared length that earlier keys must leave
        to it. None: the root of the machine epsilon.

    Returns:
      An `Edit` of n rows.

    Raises:
      ValueError: if shapes do not agree, anything is not finite, or a key is, to the tolerance, a
        combination of the earlier ones, such as a duplicate: no sensible kernel then fits all
        values. Under `jit`: NaN.

    Example:
      >>> import jax.numpy as jnp
      >>> from kis_jax.core.whitening import whitener
      >>> keys, values = jnp.array([[1.0, 0.0], [1.0, 1.0]]), jnp.array([[1.0], [0.0]])
      >>> edit = edit_constrained(jnp.zeros((2, 1)), keys, values, whitener(jnp.eye(2)))
      >>> (keys @ edit.apply(jnp.zeros((2, 1)))).round(3)
      Array([[1.],
             [0.]], dtype=float32)

    Reference: Gupta et al. 2024 (arXiv 2403.14236), eq. 9.
    """
    keys, requested = _requested(kernel, keys, values, *_arithmetic(whitener))
    tolerance = own_share(keys.dtype, tolerance)
    edit, sound = _constrained(keys, requested, whitener, tolerance)
    if not holds_or_traced(sound):
        _, own = orthonormal(_unit(whitener.whiten(keys))[0], tolerance)
        raise ValueError(
            "keys: expected finite, linearly independent rows, found that row "
            f"{jnp.argmin(own)} has {float(jnp.min(own)):.1e} of its squared length to itself, "
            f"the rest in the span of those before it (tolerance {float(tolerance):.1e}; a "
            "duplicate key, or more facts than dimensions); leave it out, or use edit_batch"
        )
    return _checked(edit, keys, requested)


def edit_batch(
    kernel: Array,
    keys: Array,
    values: Array,
    whitener: Whitener,
    weight: float | Array,
    previous: Array | None = None,
) -> Edit:
    r"""All n facts in least squares, against ordinary text: MEMIT's closed form.

    $\Delta = (w C + K^\top K)^{-1} K^\top (V - K W)$, by the identity
    $C^{-1} K^\top (K C^{-1} K^\top + w I)^{-1} (V - K W)$: a system of n, not of d, equations. With
    earlier edits to be kept, their $K_p^\top K_p$ joins the sum inside the inverse.

    Args:
      kernel: W, `(d, m)`.
      keys: K, `(n, d)`.
      values: V, `(n, m)`, the values asked for.
      whitener: of the layer's second moment.
      weight: w, positive: how many tokens of ordinary text weigh as much as a fact. Relaxed EMMET
        with weight a and relaxation e is this with w = a e.
      previous: keys of earlier batches, $K_p$, `(p, d)`, whose values should stay.

    Returns:
      An `Edit` of n rows, solved together: prefixes of it have no meaning.

    Raises:
      ValueError: if shapes do not agree, `weight` is not positive, or anything is not finite.

    Example:
      >>> import jax.numpy as jnp
      >>> from kis_jax.core.whitening import whitener
      >>> keys, values = jnp.array([[1.0, 0.0], [1.0, 1.0]]), jnp.array([[1.0], [0.0]])
      >>> edit = edit_batch(jnp.zeros((2, 1)), keys, values, whitener(jnp.eye(2)), 1.0)
      >>> edit.apply(jnp.zeros((2, 1))).round(3)  # the least of |W|^2 + |K W - V|^2
      Array([[ 0.4],
             [-0.2]], dtype=float32)

    Reference: Meng et al. 2023 (arXiv 2210.07229), eq. 14; Gupta et al. 2024 (arXiv 2403.14236).
    """
    keys, requested = _requested(kernel, keys, values, *_arithmetic(whitener))
    weight = _positive("weight", weight, keys.dtype)
    if previous is not None:
        previous = as_rows("previous", previous, whitener.width)
    return _checked(_batch(keys, requested, whitener, weight, previous), keys, requested)


def edit_null_space(
    kernel: Array,
    keys: Array,
    values: Array,
    projector: Array,
    ridge: float | Array,
    previous: Array | None = None,
) -> Edit:
    r"""All n facts in least squares, within directions that ordinary text leaves free: AlphaEdit.

    $\Delta = (N (K^\top K + K_p^\top K_p) + r I)^{-1} N K^\top (V - K W)$, through systems of n
    and p equations. It is MEMIT with $C^{-1}$ replaced by N, and w by r.

    Args:
      kernel: W, `(d, m)`.
      keys: K, `(n, d)`.
      values: V, `(n, m)`, the values asked for.
      projector: N, `(d, d)`, symmetric and idempotent; see `null_space`.
      ridge: r, positive.
      previous: keys of the earlier batches of a sequence, $K_p$, `(p, d)`; None for the first.

    Returns:
      An `Edit` of n rows, solved together: prefixes of it have no meaning.

    Raises:
      ValueError: if shapes do not agree, `ridge` is not positive, `projector` is not a projector,
        or anything is not finite.

    Example:
      >>> import jax.numpy as jnp
      >>> free = jnp.diag(jnp.array([0.0, 1.0]))
      >>> keys, values = jnp.array([[1.0, 1.0]]), jnp.array([[3.0]])
      >>> edit_null_space(jnp.zeros((2, 1)), keys, values, free, 0.5).delta.round(3)
      Array([[0.],
             [2.]], dtype=float32)

    Reference: Fang et al. 2025 (arXiv 2410.02355), eq. 14.
    """
    projector = jnp.asarray(projector)
    d = projector.shape[-1] if projector.ndim else 0
    if projector.shape != (d, d) or projector.dtype not in (jnp.float32, jnp.float64):
        raise ValueError(
            "projector: expected shape (d, d), in float32 or float64, found "
            f"{projector.dtype}{projector.shape}"
        )
    keys, requested = _requested(kernel, keys, values, d, projector.dtype)
    ridge = _positive("ridge", ridge, keys.dtype)
    if not holds_or_traced(_is_projector(projector)):
        raise ValueError(
            "projector: expected a symmetric matrix N with N @ N = N, found another; use "
            "kis.null_space(second_moment), which makes one"
        )
    if previous is not None:
        previous = as_rows("previous", previous, d)
    return _checked(_null_space(keys, requested, projector, ridge, previous), keys, requested)


@jax.jit
def _sequential(keys: Array, requested: Array, whitener: Whitener) -> Edit:
    white = whitener.whiten(keys)
    along = white / jnp.sum(white * white, axis=1, keepdims=True)
    residuals = residuals_met(along, white, requested, extended=whitener.extended)
    return _edit(whitener, along, residuals, requested, "sequential")


@jax.jit
def _constrained(
    keys: Array, requested: Array, whitener: Whitener, tolerance: Array
) -> tuple[Edit, Array]:
    """The edit, NaN unless every whitened key has enough to itself; and whether it has."""
    unit, norms = _unit(whitener.whiten(keys))
    along, sound = unit, jnp.asarray(True)
    for _ in range(2):  # Gram and Schmidt's rows by Cholesky's factor; twice, as once is not enough
        gram = inner(along, along, extended=whitener.extended)
        factor = jnp.linalg.cholesky(gram, symmetrize_input=False)
        sound &= jnp.all(jnp.diagonal(factor) ** 2 > tolerance)
        along = solve_columns(factor, along)
    along = along / (norms * jnp.sum(along * unit, axis=1, keepdims=True))
    residuals = residuals_met(along, unit * norms, requested, extended=whitener.extended)
    residuals = jnp.where(sound, residuals, jnp.nan)
    return _edit(whitener, along, residuals, requested, "constrained"), sound


@jax.jit
def _batch(
    keys: Array, requested: Array, whitener: Whitener, weight: Array, previous: Array | None
) -> Edit:
    earlier = None if previous is None else whitener.whiten(previous)
    white = whitener.whiten(keys)
    along, residuals = ridge_regression(white, requested, weight, earlier, whitener.extended)
    return _edit(whitener, along, residuals, requested, "batch")


@jax.jit
def _null_space(
    keys: Array, requested: Array, projector: Array, ridge: Array, previous: Array | None
) -> Edit:
    earlier = None if previous is None else matmul(previous.astype(keys.dtype), projector)
    along, residuals = ridge_regression(matmul(keys, projector), requested, ridge, earlier)
    return Edit(along, residuals, requested, "null_space")


def _edit(whitener: Whitener, along: Array, residuals: Array, requested: Array, rule: Rule) -> Edit:
    """An edit from whitened directions."""
    return Edit(whitener.directions(along), residuals, requested, rule, whitener.extended)


def _unit(rows: Array) -> tuple[Array, Array]:
    """Rows of length one, and the lengths that they had, `(n, 1)`."""
    norms = jnp.linalg.norm(rows, axis=1, keepdims=True)
    return rows / norms, norms


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


def _requested(
    kernel: ArrayLike,
    keys: ArrayLike,
    values: ArrayLike,
    width: int,
    dtype: jnp.dtype,
    extended: bool = False,
) -> tuple[Array, Array]:
    """The keys, and what their values lack of those asked for, in the dtype of the computation."""
    keys = as_rows("keys", keys, width)
    kernel, values = jnp.asarray(kernel), jnp.asarray(values)
    if kernel.ndim != 2 or kernel.shape[0] != width:
        raise ValueError(
            f"kernel: expected shape ({width}, m), keys by values, found {kernel.shape}; torch's "
            "Linear stores the transpose"
        )
    if values.shape != (len(keys), kernel.shape[1]):
        raise ValueError(
            f"values: expected shape {(len(keys), kernel.shape[1])}, one value for each key, "
            f"found {values.shape}"
        )
    keys = keys.astype(dtype)
    found = inner(keys, kernel.astype(dtype).T, extended=extended)
    return keys, values.astype(dtype) - found


def _arithmetic(whitener: Whitener) -> tuple[int, jnp.dtype, bool]:
    """What a whitener asks of a computation: its width, its dtype, and whether more digits."""
    return whitener.width, whitener.factor.dtype, whitener.extended


def _positive(name: str, number: float | Array, dtype: jnp.dtype) -> Array:
    number = jnp.asarray(number, dtype)
    if number.ndim or not holds_or_traced(number > 0):
        raise ValueError(f"{name}: expected a positive number, found {number}")
    return number


def _checked(edit: Edit, keys: Array, requested: Array) -> Edit:
    """The edit, unless a number went wrong on the way."""
    finite = jnp.all(jnp.isfinite(edit.residuals)) & jnp.all(jnp.isfinite(edit.directions))
    if edit.rule in ("sequential", "constrained"):  # a length that overflowed leaves zeros
        finite &= jnp.all(jnp.any(edit.directions != 0, axis=1))
    if holds_or_traced(finite):
        return edit
    wrong = ~jnp.all(jnp.isfinite(requested), axis=1) | ~jnp.any(keys != 0, axis=1)
    found = (
        f"row {jnp.argmax(wrong)} zero or not finite"
        if jnp.any(wrong)
        else "an update beyond the range of its dtype; scale the keys, or see to the second moment"
    )
    raise ValueError(f"keys, values: expected finite numbers and no key of zeros, found {found}")
