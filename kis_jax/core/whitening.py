"""Whitening of keys: the second moment factored once, applied to any number of keys."""

from __future__ import annotations

import dataclasses
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from kis_jax.core import factors
from kis_jax.core.checks import as_rows, known_to_hold
from kis_jax.core.extended import Pair, pair, product
from kis_jax.core.lanczos import largest_eigenvalue
from kis_jax.core.products import matmul, solve_rows
from kis_jax.core.second_moment import SecondMoment

Method = Literal["cholesky", "refined", "eigh"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Whitener:
    r"""A factor $W$ of the inverse second moment, $C^{-1} = W W^\top$.

    Made by `whitener`. In whitened coordinates $z = W^\top k$ the keys of ordinary text have unit
    second moment, and $k_i^\top C^{-1} k_j = z_i \cdot z_j$.

    Attributes:
      scale: `(d,)`. $C_{ii}^{-1/2}$, the scaling to unit diagonal ("refined": its nearest power
        of two); for "eigh" ones.
      factor: "cholesky": `(d, d)`, lower-triangular $L$ with $L L^\top$ the scaled C. "refined":
        `(d, d)`, lower-triangular, one whitening vector a row. "eigh": `(d, r)`, the eigenvectors
        kept, each divided by the root of its eigenvalue.
      correction: "refined": `(d, d)`, the digits of the whitening vectors that float32 has no
        room for; else None.
      method: `"cholesky"`, `"refined"` or `"eigh"`.
    """

    scale: Array
    factor: Array
    correction: Array | None
    method: Method = dataclasses.field(metadata={"static": True})

    def whiten(self, keys: ArrayLike) -> Array:
        """Whitened coordinates of keys, `(n, d)` to `(n, r)`; their inner products are a C^-1 b."""
        rows = as_rows("keys", keys, self.width)
        if self.correction is not None:
            high, low = pair(keys)
            scaled = Pair(high * self.scale, low * self.scale)
            return product(scaled, Pair(self.factor, self.correction)).high
        rows = rows.astype(self.factor.dtype) * self.scale
        if self.method == "cholesky":
            return solve_rows(self.factor, rows, transpose=True)
        return matmul(rows, self.factor)

    def directions(self, white: Array) -> Array:
        """The rows W z of whitened coordinates z, `(n, r)` to `(n, d)`; C^-1 k for a whitened k."""
        if self.method == "cholesky":
            return solve_rows(self.factor, white) * self.scale
        if self.correction is not None:
            vectors = Pair(self.factor.T, self.correction.T)
            return product(pair(white), vectors).high * self.scale
        return matmul(white, self.factor.T)

    def solve(self, keys: ArrayLike) -> Array:
        """The directions of edits: rows $C^{-1} k$, `(n, d)` to `(n, d)`."""
        return self.directions(self.whiten(keys))

    @property
    def extended(self) -> bool:
        """Whether inner products deserve more digits than their float32 factors have."""
        return self.method == "refined"

    @property
    def width(self) -> int:
        """Of the keys, d."""
        return self.scale.shape[-1]

    @property
    def rank(self) -> Array:
        """Number of directions kept, `()`: d unless the method is "eigh"."""
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

        def second_moment(vector: Array) -> Array:
            row = (vector / self.scale)[None]
            if self.method == "cholesky":
                row = matmul(matmul(row, self.factor), self.factor.T)
            else:
                row = solve_rows(self.factor, solve_rows(self.factor, row), transpose=True)
            return row[0] / self.scale

        def inverse(vector: Array) -> Array:
            return self.solve(vector[None])[0]

        d, dtype = self.width, self.factor.dtype
        return largest_eigenvalue(second_moment, d, dtype) * largest_eigenvalue(inverse, d, dtype)


def whitener(
    second_moment: ArrayLike | SecondMoment,
    *,
    ridge: float | Array = 0.0,
    method: Method = "cholesky",
    rcond: float | None = None,
) -> Whitener:
    r"""Factors $C + \text{ridge} \cdot I$ once, for any number of keys.

    `"cholesky"` scales C to unit diagonal first, which removes the part of its ill-conditioning
    that is only a matter of units: the neurons of one layer differ widely in size. Its relative
    error is of the order of the condition number left times the machine epsilon: negligible in
    float64, all digits of float32 for many a real C. `"refined"` is for devices without float64:
    float32 arithmetic, corrected by products in twice the digits, so that P comes out to float32
    accuracy whatever the condition number, up to some 10^9. It takes about 80 products of the size
    of C; whitening then takes 21 products in place of one. `"eigh"` gives the Moore-Penrose
    pseudo-inverse, for a C that is singular (fewer tokens than dimensions, neurons that never
    fire).

    Args:
      second_moment: C, `(d, d)`, symmetric; or a `SecondMoment`, whose mean is taken.
      ridge: added to the diagonal, in the units of C.
      method: `"cholesky"`, `"refined"` or `"eigh"`.
      rcond: for `"eigh"`: directions whose eigenvalue is at most `rcond` times the largest are
        dropped. None: d times the machine epsilon of the dtype.

    Returns:
      A `Whitener`, in the dtype of C; with `"refined"` in float32, after reading all the digits of
      a float64 C, which may be a NumPy array where jax has float64 off. With `"eigh"` its factor
      holds only the r directions kept; under `jit`, where no shape may depend on numbers, the
      dropped ones stay as zero columns.

    Raises:
      ValueError: if C is not square, not finite or (except for "eigh") not positive definite.
        Under `jit` or `vmap` the last two cannot raise, and give NaN or noise.

    Example:
      >>> import jax.numpy as jnp
      >>> w = whitener(jnp.array([[4.0, 0.0], [0.0, 1.0]]))
      >>> w.solve(jnp.array([[2.0, 3.0]]))
      Array([[0.5, 3. ]], dtype=float32)

    Reference: Hu et al. 2024 (arXiv 2408.07413), section 4.1. `solve(keys)` is equivalent to
    `scipy.linalg.solve(C, keys.T, assume_a="pos").T`.
    """
    if method not in get_args(Method):
        raise ValueError(f"method: expected one of {get_args(Method)}, found {method!r}")
    if rcond is not None and method != "eigh":
        raise ValueError('rcond: only method="eigh" drops directions; pass method="eigh" as well')
    c = second_moment.mean if isinstance(second_moment, SecondMoment) else second_moment
    parts = pair(c) if method == "refined" else None
    c = jnp.asarray(c) if parts is None else parts.high
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
    if not known_to_hold(jnp.all(jnp.isfinite(c))):
        raise ValueError(
            "second_moment: expected finite entries, found NaN or infinity; a SecondMoment "
            "without tokens has mean NaN, and so has one over keys that overflowed"
        )
    ridge = jnp.asarray(ridge, c.dtype)
    if method == "eigh":
        factor = factors.pseudo_inverse(c, ridge, rcond)
        if factor.shape[1] == 0:
            raise ValueError(
                "second_moment: expected a positive eigenvalue above rcond times the largest, "
                "found none; check its sign, or lower rcond"
            )
        return Whitener(jnp.ones(c.shape[:1], c.dtype), factor, None, method)
    if parts is not None:
        scale, vectors, definite = factors.refined(parts, ridge)
        made = Whitener(scale, vectors.high, vectors.low, method)
    else:
        scale, factor, definite = factors.cholesky(c, ridge)
        made = Whitener(scale, factor, None, method)
    if not known_to_hold(definite):
        raise ValueError(
            f"second_moment: expected a positive definite matrix, found one that is singular to "
            f"{c.dtype.name} precision; measure it over more tokens than its {c.shape[0]} "
            'dimensions, pass a positive ridge, or method="eigh" for the pseudo-inverse'
        )
    return made
