"""Whitening of keys: the second moment factored once, applied to any number of keys."""

from __future__ import annotations

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array
from jax.core import Tracer

from kis_jax.core.lanczos import largest_eigenvalue
from kis_jax.core.second_moment import SecondMoment

_HIGHEST = jax.lax.Precision.HIGHEST


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Whitener:
    r"""A factor $W$ of the inverse second moment, $C^{-1} = W W^\top$.

    Made by `whitener`. In whitened coordinates $z = W^\top k$ the keys of ordinary text have unit
    second moment, and $k_i^\top C^{-1} k_j = z_i \cdot z_j$.

    Attributes:
      scale: `(d,)`. Cholesky: $C_{ii}^{-1/2}$, the scaling to unit diagonal; else ones.
      factor: Cholesky: `(d, d)`, lower-triangular $L$ with $L L^\top$ the scaled C. Else
        `(d, r)`: the eigenvectors kept, each divided by the root of its eigenvalue.
      method: `"cholesky"` or `"eigh"`.
    """

    scale: Array
    factor: Array
    method: Literal["cholesky", "eigh"] = dataclasses.field(metadata={"static": True})

    def whiten(self, keys: Array) -> Array:
        """Whitened coordinates of keys, `(n, d)` to `(n, r)`; their inner products are a C^-1 b."""
        scaled = self._check(keys) * self.scale
        if self.method == "cholesky":
            return _triangular_solve(self.factor, scaled, transpose=True)
        return jnp.matmul(scaled, self.factor, precision=_HIGHEST)

    def solve(self, keys: Array) -> Array:
        """The directions of edits: rows $C^{-1} k$, `(n, d)` to `(n, d)`."""
        white = self.whiten(keys)
        if self.method == "cholesky":
            return _triangular_solve(self.factor, white, transpose=False) * self.scale
        return jnp.matmul(white, self.factor.T, precision=_HIGHEST)

    @property
    def rank(self) -> Array:
        """Number of directions kept, `()`: d for Cholesky."""
        return jnp.sum(jnp.any(self.factor != 0, axis=-2))

    @property
    def condition(self) -> Array:
        """Condition number in the 2-norm of C (plus ridge, within the directions kept), `()`.

        From Lanczos' iteration with the factor, hence never above the true value; within a few
        per cent of it for the spectra of real keys.
        """
        if self.method == "eigh":
            squares = jnp.sum(self.factor**2, axis=-2)  # reciprocals of the eigenvalues kept
            kept = squares > 0
            return jnp.max(squares) / jnp.min(jnp.where(kept, squares, jnp.inf))
        d, dtype = self.factor.shape[-1], self.factor.dtype

        def product(vector: Array) -> Array:
            scaled = vector / self.scale
            return jnp.matmul(self.factor, self.factor.T @ scaled, precision=_HIGHEST) / self.scale

        largest = largest_eigenvalue(product, d, dtype)
        return largest * largest_eigenvalue(lambda v: self.solve(v[None])[0], d, dtype)

    def _check(self, keys: Array) -> Array:
        d = self.scale.shape[-1]
        keys = jnp.asarray(keys)
        if keys.ndim != 2 or keys.shape[-1] != d:
            raise ValueError(
                f"keys: expected shape (n, {d}), the width of the whitener, found {keys.shape}; "
                "take all keys and the second moment from the same layer of the same model"
            )
        return keys.astype(self.factor.dtype)


def whitener(
    second_moment: Array | SecondMoment,
    *,
    ridge: float | Array = 0.0,
    method: Literal["cholesky", "eigh"] = "cholesky",
    rcond: float | None = None,
) -> Whitener:
    r"""Factors $C + \text{ridge} \cdot I$ once, for any number of keys.

    `"cholesky"` scales C to unit diagonal first, which removes the part of its ill-conditioning
    that is only a matter of units: the neurons of one layer differ widely in size. `"eigh"` gives
    the Moore-Penrose pseudo-inverse, for a C that is singular (fewer tokens than dimensions,
    neurons that never fire).

    Args:
      second_moment: C, `(d, d)`, symmetric; or a `SecondMoment`, whose mean is taken.
      ridge: added to the diagonal, in the units of C.
      method: `"cholesky"` or `"eigh"`.
      rcond: for `"eigh"`: directions whose eigenvalue is at most `rcond` times the largest are
        dropped. None: d times the machine epsilon of the dtype.

    Returns:
      A `Whitener`, in the dtype of C. With `"eigh"` its factor holds only the r directions kept;
      under `jit`, where no shape may depend on numbers, the dropped ones stay as zero columns.

    Raises:
      ValueError: if C is not square, not finite or (Cholesky) not positive definite. Under `jit`
        or `vmap` the last two cannot raise, and give NaN or noise.

    Example:
      >>> import jax.numpy as jnp
      >>> w = whitener(jnp.array([[4.0, 0.0], [0.0, 1.0]]))
      >>> w.solve(jnp.array([[2.0, 3.0]]))
      Array([[0.5, 3. ]], dtype=float32)

    Reference: Hu et al. 2024 (arXiv 2408.07413), section 4.1. `solve(keys)` is equivalent to
    `scipy.linalg.solve(C, keys.T, assume_a="pos").T`.
    """
    c = second_moment.mean if isinstance(second_moment, SecondMoment) else second_moment
    c = jnp.asarray(c)
    if c.dtype not in (jnp.float32, jnp.float64):
        raise ValueError(
            f"second_moment: expected float32 or float64, found {c.dtype.name}; accumulate it in "
            "float32 at least"
        )
    if c.ndim != 2 or c.shape[0] != c.shape[1]:
        raise ValueError(
            f"second_moment: expected shape (d, d), found {c.shape}; for several layers use "
            "jax.vmap or one call for each"
        )
    if method not in ("cholesky", "eigh"):
        raise ValueError(f'method: expected "cholesky" or "eigh", found {method!r}')
    if rcond is not None and method == "cholesky":
        raise ValueError('rcond: only method="eigh" drops directions; pass method="eigh" as well')
    if not _known_to_hold(jnp.all(jnp.isfinite(c))):
        raise ValueError(
            "second_moment: expected finite entries, found NaN or infinity; a SecondMoment "
            "without tokens has mean NaN, and so has one over keys that overflowed"
        )
    ridge = jnp.asarray(ridge, c.dtype)
    return _from_cholesky(c, ridge) if method == "cholesky" else _from_eigenvectors(c, ridge, rcond)


def _from_cholesky(c: Array, ridge: Array) -> Whitener:
    scale, factor, definite = _scaled_cholesky(c, ridge)
    if not _known_to_hold(definite):
        raise ValueError(
            f"second_moment: expected a positive definite matrix, found one that is singular to "
            f"{c.dtype.name} precision; measure it over more tokens than its {c.shape[0]} "
            'dimensions, pass a positive ridge, or method="eigh" for the pseudo-inverse'
        )
    return Whitener(scale, factor, "cholesky")


@jax.jit
def _scaled_cholesky(c: Array, ridge: Array) -> tuple[Array, Array, Array]:
    """Roots of the reciprocal diagonal, the factor of the scaled C, and whether it is definite.

    Rounding makes a singular matrix pass for a definite one half of the time. So its condition
    number counts as well: beyond 1 / epsilon, by three steps of inverse iteration for the norm of
    the inverse, it is singular as far as this precision can tell.
    """
    diagonal = jnp.diagonal(c) + ridge
    scale = jax.lax.rsqrt(diagonal)
    scaled = jnp.fill_diagonal(c * scale[:, None] * scale, diagonal * scale**2, inplace=False)
    factor = jnp.linalg.cholesky(scaled, symmetrize_input=False)
    vector = jax.random.normal(jax.random.key(0), (1, len(c)), c.dtype)
    for _ in range(3):
        vector = _triangular_solve(factor, vector / jnp.linalg.norm(vector), transpose=True)
        vector = _triangular_solve(factor, vector, transpose=False)
    norms = jnp.linalg.norm(vector) * jnp.max(jnp.sum(jnp.abs(scaled), axis=0))
    return scale, factor, norms < 1 / jnp.finfo(c.dtype).eps


def _from_eigenvectors(c: Array, ridge: Array, rcond: float | None) -> Whitener:
    d = c.shape[0]
    c = c + ridge * jnp.eye(d, dtype=c.dtype)
    eigenvalues, vectors = jnp.linalg.eigh(c)
    threshold = (d * jnp.finfo(c.dtype).eps if rcond is None else rcond) * eigenvalues[-1]
    kept = eigenvalues > jnp.maximum(threshold, 0)
    if not _known_to_hold(jnp.any(kept)):
        raise ValueError(
            "second_moment: expected a positive eigenvalue above rcond times the largest, found "
            "none; check its sign, or lower rcond"
        )
    if isinstance(kept, Tracer):
        factor = vectors * jnp.where(kept, jax.lax.rsqrt(jnp.where(kept, eigenvalues, 1)), 0)
    else:
        factor = vectors[:, kept] * jax.lax.rsqrt(eigenvalues[kept])
    return Whitener(jnp.ones_like(eigenvalues), factor, "eigh")


def _triangular_solve(factor: Array, rows: Array, *, transpose: bool) -> Array:
    """Solves `x L.T = rows` if transposed, else `x L = rows`."""
    return jax.lax.linalg.triangular_solve(
        factor, rows, left_side=False, lower=True, transpose_a=transpose
    )


def _known_to_hold(condition: Array) -> bool:
    """Whether a check passes; under tracing it cannot be known, and is taken to pass."""
    return isinstance(condition, Tracer) or bool(condition)
