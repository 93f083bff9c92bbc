"""Whitening of keys: the second moment factored once, applied to any number of keys."""

from __future__ import annotations

import dataclasses
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from kis_jax.core import factors
from kis_jax.core.checks import as_rows, holds_or_traced
from kis_jax.core.extended import Pair, pair, product
from kis_jax.core.lanczos import largest_eigenvalue
from kis_jax.core.products import matmul
from kis_jax.core.second_moment import SecondMoment, as_matrix
from kis_jax.core.triangular import solve_rows

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
      factor: "cholesky": `(d, d)`, upper-triangular $R$ with $R^\top R$ the scaled C. "refined":
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
            return solve_rows(self.factor, rows)
        return matmul(rows, self.factor)

    def directions(self, white: Array) -> Array:
        """The rows W z of whitened coordinates z, `(n, r)` to `(n, d)`; C^-1 k for a whitened k."""
        if self.method == "cholesky":
            return solve_rows(self.factor, white, transpose=True) * self.scale
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

        From 64 steps of Lanczos' iteration with C and with its inverse, by the factor; hence never
        above the true value, up to rounding.
        """
        return _condition(self)


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
    float64, all digits of float32 for many a real C.

    `"refined"` is for devices without float64: float32 arithmetic, corrected by products in twice
    the digits, so that P comes out to float32 accuracy for condition numbers up to about 10^8 (see
    docs/accuracy.md). It takes the operations of some 80 products of the size of C; whitening, and
    whatever is computed from whitened keys, then takes those of 21 products in place of one.

    `"eigh"` gives the Moore-Penrose pseudo-inverse, for a C that is singular (fewer tokens than
    dimensions, neurons that never fire).

    Args:
      second_moment: C, `(d, d)`, symmetric; or a `SecondMoment`, whose mean is taken.
      ridge: added to the diagonal, in the units of C.
      method: `"cholesky"`, `"refined"` or `"eigh"`.
      rcond: for `"eigh"`: directions whose eigenvalue is at most `rcond` times the largest are
        dropped. None: d times the machine epsilon of the dtype.

    Returns:
      A `Whitener`, in the dtype of C: float32 for a float64 NumPy array where jax has float64 off,
      of which only `"refined"`, always in float32, then reads all digits. With `"eigh"` its factor
      holds only the r directions kept; under `jit`, where no shape may depend on numbers, the
      dropped ones stay as zero columns.

    Raises:
      ValueError: if C is not square, not symmetric, not finite or (except for "eigh") not positive
        definite. Under `jit` or `vmap` numbers cannot raise: what is not definite gives NaN.

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
    c = as_matrix(second_moment)
    parts = None
    if method == "refined":
        given = second_moment.mean if isinstance(second_moment, SecondMoment) else second_moment
        parts = pair(given)
        c = parts.high
    if c.dtype not in (jnp.float32, jnp.float64):
        raise ValueError(
            f"second_moment: expected float32 or float64, found {c.dtype.name}; accumulate it in "
            "float32 at least"
        )
    if not holds_or_traced(_is_symmetric(c)):
        raise ValueError(
            "second_moment: expected a symmetric matrix, found one that is not; pass the mean of "
            "k k^T over tokens, not keys"
        )
    ridge = jnp.asarray(ridge, c.dtype)
    if not holds_or_traced(ridge >= 0):
        raise ValueError(f"ridge: expected a number that is not negative, found {ridge}")
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
    if not holds_or_traced(definite):
        raise ValueError(
            f"second_moment: expected a positive definite matrix, found one that is singular to "
            f"the precision of {method!r} in {c.dtype.name}; measure it over more tokens than its "
            f'{c.shape[0]} dimensions, use float64 or method="refined" (for a C that is only '
            'ill-conditioned), a positive ridge, or method="eigh" for the pseudo-inverse'
        )
    return made


@jax.jit
def _is_symmetric(c: Array) -> Array:
    """To a thousandth; compiled, as its parts would be four more matrices of the size of C."""
    sizes = jnp.sqrt(jnp.abs(jnp.diagonal(c)))
    return jnp.all(jnp.abs(c - c.T) <= 1e-3 * sizes[:, None] * sizes)


@jax.jit
def _condition(whitener: Whitener) -> Array:
    if whitener.method == "eigh":
        squares = jnp.sum(whitener.factor**2, axis=-2)  # reciprocals of the eigenvalues kept
        kept = squares > 0
        return jnp.max(squares) / jnp.min(jnp.where(kept, squares, jnp.inf))

    def second_moment(vector: Array) -> Array:
        vector = vector / whitener.scale
        if whitener.method == "cholesky":  # a row times the factor's transpose would turn it
            return matmul(matmul(whitener.factor, vector), whitener.factor) / whitener.scale
        upper = whitener.factor.T
        row = solve_rows(upper, solve_rows(upper, vector[None], transpose=True))
        return row[0] / whitener.scale

    def inverse(vector: Array) -> Array:
        return whitener.solve(vector[None])[0]

    d, dtype = whitener.width, whitener.factor.dtype
    return largest_eigenvalue(second_moment, d, dtype) * largest_eigenvalue(inverse, d, dtype)
