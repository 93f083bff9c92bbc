"""Superposition of keys: how much of an edit of one fact also lands on another."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from kis_jax.core.arrays.buckets import in_buckets
from kis_jax.core.arrays.checks import as_rows, known
from kis_jax.core.arrays.mesh import Axes, diagonal
from kis_jax.core.arrays.products import inner, scaled
from kis_jax.core.geometry.spaces import Space, as_space
from kis_jax.core.statistics.moments import Moments, moments

_SQUARE: dict[str, Any] = {"square": True, "edge": True, "by_layout": True}


def gram(keys: Float[Array, "n d"], whitener: Space | None = None) -> Float[Array, "n n"]:
    r"""Gram matrix of keys, in activation space or in whitening space.

    Args:
      keys: one fact a row, `(n, d)`.
      whitener: None for $Q = K K^\top$; else $G = K C^{-1} K^\top$.

    Returns:
      `(n, n)`, symmetric.

    Raises:
      ValueError: if `keys` is not a matrix, or not of the whitener's width.

    Examples:
      >>> import jax.numpy as jnp
      >>> gram(jnp.array([[1.0, 2.0], [0.0, 3.0]]))
      Array([[5., 6.],
             [6., 9.]], dtype=float32)

    Reference: Hu et al. 2024 (arXiv 2408.07413), section 4.1.
    """
    keys = _rows(keys, whitener)
    return in_buckets(_gram, keys, whitener, rows=1, **_SQUARE)


def _gram(keys: Array, whitener: Space | None) -> Array:
    coordinates = _coordinates(keys, whitener)
    return inner(coordinates, coordinates, extended=_extended(whitener))


def superposition(
    keys: Float[Array, "n d"],
    whitener: Space,
    others: Float[Array, "q d"] | None = None,
    *,
    axis_name: str | tuple[str, ...] | None = None,
) -> Float[Array, "n q"]:
    r"""Superposition of each key with every other.

    $P_{ij} = k_i^\top C^{-1} k_j / k_i^\top C^{-1} k_i$: the share of an edit of fact $i$ that
    also lands on fact $j$. Row i is the edit, column j what it touches; not symmetric.

    Args:
      keys: the facts that are edited, `(n, d)`.
      whitener: of the layer's second moment.
      others: the keys that are touched, `(q, d)`; the edited ones themselves if None.
      axis_name: within `shard_map`, the mesh axes that the facts are dealt out over; then `keys`
        (and `others`) are this device's, and the result has its rows and the columns of all.

    Returns:
      `(n, q)`. Without `others` it is `(n, n)` with diagonal 1. If the rows of `keys` are dealt out
      over a mesh, its rows are likewise; no device ever holds the keys of all.

    Raises:
      ValueError: if a width differs from the whitener's.

    Examples:
      >>> import jax.numpy as jnp
      >>> from kis_jax.core.geometry.whitening import whitener
      >>> w = whitener(jnp.eye(2))
      >>> superposition(jnp.array([[1.0, 1.0], [2.0, 0.0]]), w)
      Array([[1. , 1. ],
             [0.5, 1. ]], dtype=float32)

    Reference: Hu et al. 2024 (arXiv 2408.07413), eq. 17.
    """
    keys = _rows(keys, as_space("whitener", whitener))
    others = None if others is None else _rows(others, whitener, "others")
    options: dict[str, Any] = {"axis_name": axis_name, **_SQUARE}
    return in_buckets(_superposition, keys, others, whitener, rows=2, **options)


def _superposition(
    keys: Array, others: Array | None, whitener: Space, axis_name: str | Axes | None = None
) -> Array:
    # P has no scale: each edited key is given one by which no square leaves the range of the dtype.
    white, extended = _coordinates(keys, whitener), whitener.extended
    touched = white if others is None else _coordinates(others, whitener)
    white, powers = scaled(white)
    products = inner(white * powers, touched, extended=extended, axis_name=axis_name)
    if others is not None:
        return products / jnp.sum(white * white, axis=-1, keepdims=True)
    return products / diagonal(products, axis_name)[:, None]


def cosine_similarity(
    keys: Float[Array, "n d"], whitener: Space | None = None
) -> Float[Array, "n n"]:
    """Cosine of the angle between keys.

    Args:
      keys: one fact a row, `(n, d)`.
      whitener: None for activation space; else the angles are those of whitened keys.

    Returns:
      `(n, n)`, symmetric, within -1 to 1; NaN in the row and column of a zero key.

    Raises:
      ValueError: if `keys` is not a matrix, or not of the whitener's width.

    Examples:
      >>> import jax.numpy as jnp
      >>> cosine_similarity(jnp.array([[3.0, 4.0], [1.0, 0.0]]))
      Array([[1. , 0.6],
             [0.6, 1. ]], dtype=float32)
    """
    keys = _rows(keys, whitener)
    return in_buckets(_cosine_similarity, keys, whitener, rows=1, **_SQUARE)


def _cosine_similarity(keys: Array, whitener: Space | None) -> Array:
    coordinates, _ = scaled(_coordinates(keys, whitener))
    unit = coordinates / jnp.linalg.norm(coordinates, axis=-1, keepdims=True)
    return jnp.clip(inner(unit, unit, extended=_extended(whitener)), -1, 1)


def angles(keys: Float[Array, "n d"], whitener: Space | None = None) -> Float[Array, "n n"]:
    """Angles between keys in degrees, 0 to 180: the arc cosine of `cosine_similarity`.

    Angles under `sqrt(2 eps)` radians, about 0.03 degrees in float32, are not told from 0. Of a key
    with itself the angle is 0, and so is its gradient; likewise of keys that are parallel.

    Examples:
      >>> import jax.numpy as jnp
      >>> angles(jnp.array([[2.0, 0.0], [0.0, 1.0]]))
      Array([[ 0., 90.],
             [90.,  0.]], dtype=float32)
    """
    keys = _rows(keys, whitener)
    return in_buckets(_angles, keys, whitener, rows=1, **_SQUARE)


def _angles(keys: Array, whitener: Space | None) -> Array:
    cosines = _cosine_similarity(keys, whitener)
    parallel = jnp.abs(cosines) >= 1
    parallel |= jnp.eye(cosines.shape[0], dtype=bool) & ~jnp.isnan(cosines)
    between = jnp.arccos(jnp.where(parallel, 0, cosines))  # its gradient is finite everywhere
    return jnp.rad2deg(jnp.where(parallel, jnp.where(cosines > 0, 0, jnp.pi), between))


def off_diagonal_moments(matrix: Float[Array, "n n"]) -> Moments:
    """Moments of the entries of a square matrix that are not on its diagonal.

    Args:
      matrix: `(n, n)`, such as P; at least 2 x 2.

    Returns:
      Moments with scalar fields, over n (n - 1) entries.

    Raises:
      ValueError: if the matrix is not square, or has nothing off its diagonal.

    Examples:
      >>> import jax.numpy as jnp
      >>> float(off_diagonal_moments(jnp.array([[1.0, 0.2], [0.4, 1.0]])).mean)
      0.3...

    Reference: Hu et al. 2024 (arXiv 2408.07413), section 4.2.
    """
    n = matrix.shape[0] if matrix.ndim else 0
    if matrix.shape != (n, n) or (known(n) and n < 2):
        raise ValueError(
            f"matrix: expected a square matrix of two or more facts, found shape {matrix.shape}"
        )
    return moments(matrix, where=~jnp.eye(n, dtype=bool))


def _rows(keys: ArrayLike, whitener: Space | None, name: str = "keys") -> Array:
    """The keys, one a row, checked against the space."""
    return as_rows(name, keys, None if whitener is None else as_space("whitener", whitener).width)


def _coordinates(keys: Array, whitener: Space | None) -> Array:
    """The keys, whitened if asked for, in float32 or better."""
    if whitener is not None:
        return whitener.whiten(keys)
    return keys.astype(jnp.float32) if keys.dtype.itemsize < 4 else keys


def _extended(whitener: Space | None) -> bool:
    return whitener is not None and whitener.extended
