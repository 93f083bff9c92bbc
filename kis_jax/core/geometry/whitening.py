"""Whitening of keys: the second moment factored once, applied to any number of keys."""

from __future__ import annotations

import abc
import dataclasses
import warnings
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jax import Array
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Float, Int

from kis_jax.core.arrays import factors
from kis_jax.core.arrays.checks import as_number, as_rows, holds_or_traced
from kis_jax.core.arrays.extended import Pair, pair, product
from kis_jax.core.arrays.lanczos import largest_eigenvalue
from kis_jax.core.arrays.mesh import whole
from kis_jax.core.arrays.products import matmul, scaled
from kis_jax.core.arrays.pytrees import pytree
from kis_jax.core.arrays.triangular import solve_rows
from kis_jax.core.geometry.second_moment import SecondMoment, as_matrix
from kis_jax.core.geometry.spaces import Space

Method = Literal["cholesky", "refined", "eigh"]


class Whitener(Space):
    r"""A factor $W$ of the inverse second moment, $C^{-1} = W W^\top$.

    Made by `whitener`. In whitened coordinates $z = W^\top k$ the keys of ordinary text have unit
    second moment, and $k_i^\top C^{-1} k_j = z_i \cdot z_j$.
    """

    @abc.abstractmethod
    def second_moment(self, vector: Float[Array, " d"]) -> Float[Array, " d"]:
        """C v of one vector, `(d,)`, by the factor."""

    @property
    def condition(self) -> Float[Array, ""]:
        """Condition number in the 2-norm of C (plus ridge, within the directions kept), `()`.

        From 64 steps of Lanczos' iteration with C and with its inverse, by the factor; hence never
        above the true value, up to rounding.
        """
        return _condition(self)

    @property
    def rank(self) -> Int[Array, ""]:
        """Number of directions kept, `()`."""
        return jnp.asarray(self.width, jnp.int32)


@pytree
@dataclasses.dataclass(frozen=True, eq=False)
class CholeskyWhitener(Whitener):
    r"""By Cholesky's factor of C, scaled to unit diagonal.

    Attributes:
      scale: `(d,)`, $C_{ii}^{-1/2}$.
      factor: `(d, d)`, upper-triangular $R$ with $R^\top R$ the scaled C.
    """

    scale: Array
    factor: Array
    name: str = dataclasses.field(default="cholesky", metadata={"static": True})

    def coordinates(self, keys: Float[ArrayLike, "n d"]) -> Float[Array, "n d"]:
        """Whitened keys, `(n, d)` to `(n, d)`; their inner products are a C^-1 b."""
        rows = as_rows("keys", keys, self.width).astype(self.dtype)
        return solve_rows(self.factor, rows * self.scale[None])

    def directions(self, coordinates: Float[Array, "n d"]) -> Float[Array, "n d"]:
        """The rows W z of whitened coordinates z; C^-1 k for a whitened k."""
        return solve_rows(self.factor, coordinates, transpose=True) * self.scale[None]

    def second_moment(self, vector: Float[Array, " d"]) -> Float[Array, " d"]:
        """C v of one vector, `(d,)`, by the factor."""
        image = matmul(self.factor, vector / self.scale)
        return matmul(image, self.factor) / self.scale  # its transpose would be turned

    @property
    def width(self) -> int:
        """Of the keys, d."""
        return self.scale.shape[-1]

    @property
    def dtype(self) -> Any:
        """Of the factor."""
        return self.factor.dtype


@pytree
@dataclasses.dataclass(frozen=True, eq=False)
class LiveWhitener(CholeskyWhitener):
    r"""The pseudo-inverse by Cholesky's factor, of a C that is singular in dead neurons alone.

    Attributes:
      scale: `(d,)`, as of `CholeskyWhitener`; 0 for a neuron that never fired.
      factor: `(d, d)`, likewise; that of the identity for such neurons.
    """

    name: str = dataclasses.field(default="live", metadata={"static": True})

    def second_moment(self, vector: Float[Array, " d"]) -> Float[Array, " d"]:
        """C v of one vector, `(d,)`, by the factor."""
        sizes = jnp.where(self.scale > 0, 1 / jnp.where(self.scale > 0, self.scale, 1), 0)
        image = matmul(self.factor, vector * sizes)
        return matmul(image, self.factor) * sizes

    @property
    def rank(self) -> Int[Array, ""]:
        """Number of neurons that fired, `()`."""
        return jnp.sum(self.scale > 0, dtype=jnp.int32)


@pytree
@dataclasses.dataclass(frozen=True, eq=False)
class RefinedWhitener(Whitener):
    r"""In float32, by whitening vectors with twice its digits.

    Attributes:
      scale: `(d,)`, the powers of two nearest to $C_{ii}^{-1/2}$.
      factor: `(d, d)`, lower-triangular, one whitening vector of the scaled C a row.
      correction: `(d, d)`, the digits of the vectors that float32 has no room for.
    """

    scale: Array
    factor: Array
    correction: Array
    name: str = dataclasses.field(default="refined", metadata={"static": True})

    def coordinates(self, keys: Float[ArrayLike, "n d"]) -> Float[Array, "n d"]:
        """Whitened keys, `(n, d)` to `(n, d)`; their inner products are a C^-1 b."""
        as_rows("keys", keys, self.width)
        high, low = pair(keys)
        scaled = Pair(high * self.scale[None], low * self.scale[None])
        return product(scaled, Pair(self.factor, self.correction)).high

    def directions(self, coordinates: Float[Array, "n d"]) -> Float[Array, "n d"]:
        """The rows W z of whitened coordinates z; C^-1 k for a whitened k."""
        vectors = Pair(self.factor.T, self.correction.T)
        return product(pair(coordinates), vectors).high * self.scale[None]

    def second_moment(self, vector: Float[Array, " d"]) -> Float[Array, " d"]:
        """C v of one vector, `(d,)`, by the factor."""
        upper = self.factor.T
        row = solve_rows(upper, (vector / self.scale)[None], transpose=True)
        return solve_rows(upper, row)[0] / self.scale

    @property
    def width(self) -> int:
        """Of the keys, d."""
        return self.scale.shape[-1]

    @property
    def dtype(self) -> Any:
        """float32."""
        return self.factor.dtype

    @property
    def extended(self) -> bool:
        """Inner products deserve more digits than float32 has."""
        return True


@pytree
@dataclasses.dataclass(frozen=True, eq=False)
class PseudoInverse(Whitener):
    r"""By eigenvalues: for a C that is singular, the Moore-Penrose pseudo-inverse.

    Attributes:
      factor: `(d, d)`, the eigenvectors as columns, each divided by the root of its eigenvalue;
        zeros where one was dropped.
    """

    factor: Array
    name: str = dataclasses.field(default="eigh", metadata={"static": True})

    def coordinates(self, keys: Float[ArrayLike, "n d"]) -> Float[Array, "n d"]:
        """Whitened keys, `(n, d)` to `(n, d)`; zeros in the directions that were dropped.

        All zeros for a key whose share elsewhere is rounding: up to d times the machine epsilon.
        """
        rows, power = scaled(as_rows("keys", keys, self.width).astype(self.dtype))
        white, squares = matmul(rows, self.factor), jnp.sum(self.factor**2, axis=-2)
        kept = jnp.sum(white**2 / jnp.where(squares > 0, squares, 1)[None], axis=-1)
        least = self.width * jnp.finfo(self.dtype).eps * jnp.sum(rows**2, axis=-1)
        return jnp.where((kept <= least)[..., None], 0, white / power)  # a NaN stays

    def directions(self, coordinates: Float[Array, "n d"]) -> Float[Array, "n d"]:
        """The rows W z of whitened coordinates z; C^-1 k for a whitened k."""
        return matmul(coordinates, self.factor.T)

    def second_moment(self, vector: Float[Array, " d"]) -> Float[Array, " d"]:
        """C v of one vector, `(d,)`, by the factor: columns are orthogonal."""
        squares = jnp.sum(self.factor**2, axis=-2)
        kept = jnp.where(squares > 0, squares, 1)
        return matmul(self.factor, matmul(vector, self.factor) / kept**2)

    @property
    def width(self) -> int:
        """Of the keys, d."""
        return self.factor.shape[-2]

    @property
    def dtype(self) -> Any:
        """Of the factor."""
        return self.factor.dtype

    @property
    def rank(self) -> Int[Array, ""]:
        """Number of directions kept, `()`."""
        return jnp.sum(jnp.any(self.factor != 0, axis=-2))

    @property
    def condition(self) -> Float[Array, ""]:
        """Condition number of C within the directions kept, `()`: from its eigenvalues."""
        squares = jnp.sum(self.factor**2, axis=-2)  # reciprocals of the eigenvalues kept
        return jnp.max(squares) / jnp.min(jnp.where(squares > 0, squares, jnp.inf))


def whitener(
    second_moment: Float[ArrayLike, "d d"] | SecondMoment,
    *,
    ridge: float | Float[Array, ""] = 0.0,
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
    dimensions, neurons that never fire). A warning says how many directions it drops by itself, as
    those of an ill-conditioned C go too; with `rcond` given there is none.

    Args:
      second_moment: C, `(d, d)`, symmetric; or a `SecondMoment`, whose mean is taken.
      ridge: added to the diagonal, in the units of C.
      method: `"cholesky"`, `"refined"` or `"eigh"`.
      rcond: for `"eigh"`: directions whose eigenvalue is at most `rcond` times the largest are
        dropped. None: d times the machine epsilon of the dtype.

    Returns:
      A `Whitener`, in the dtype of C: float32 for a float64 NumPy array where jax has float64 off,
      of which only `"refined"`, always in float32, then reads all digits. With `"eigh"` the
      directions dropped stay as coordinates of zero, so that no shape depends on numbers.

    Raises:
      ValueError: if C is not square, not symmetric, not finite or (except for "eigh") not positive
        definite. Under `jit` or `vmap` numbers cannot raise: what is not definite gives NaN.

    Examples:
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
        parts = Pair(*map(whole, pair(given)))
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
    ridge = as_number("ridge", ridge, c.dtype)
    if method == "eigh":
        factor = factors.pseudo_inverse(c, ridge, rcond)
        if not holds_or_traced(jnp.any(factor != 0)):
            raise ValueError(
                "second_moment: expected a positive eigenvalue above rcond times the largest, "
                "found none; check its sign, or lower rcond"
            )
        made = PseudoInverse(factor)
        if rcond is None and not isinstance(made.rank, Tracer) and made.rank < made.width:
            warnings.warn(_dropped(made), stacklevel=2)
        return made
    if parts is not None:
        scale, vectors, definite = factors.refined(parts, ridge)
        made = RefinedWhitener(scale, vectors.high, vectors.low)
    else:
        scale, factor, definite = factors.cholesky(c, ridge)
        made = CholeskyWhitener(scale, factor)
    if not holds_or_traced(definite):
        better = 'method="refined" or ' if method == "cholesky" else ""
        raise ValueError(
            f"second_moment: expected a positive definite matrix, found one that is singular to "
            f"the precision of {method!r} in {c.dtype.name}; for a C that is only ill-conditioned "
            f"use {better}float64, else measure it over more tokens than its {c.shape[0]} "
            "dimensions, or use a positive ridge, or "
            'method="eigh" for the pseudo-inverse (of the commands: --ridge, --inverse pseudo)'
        )
    return made


def live_whitener(second_moment: Float[Array, "d d"]) -> Whitener:
    r"""`whitener` by Cholesky's factor, which drops neurons that never fired, and those alone.

    Their rows and columns of C are zero, exactly: the others are whitened as if they were not
    there, and keys count by the others. That is the pseudo-inverse, at the cost and the accuracy
    of Cholesky's factor. Any other singular C is an error, as a C of dead neurons alone is.

    Args:
      second_moment: C, `(d, d)`, symmetric.

    Raises:
      ValueError: as `whitener`.

    Examples:
      >>> import jax.numpy as jnp
      >>> w = live_whitener(jnp.array([[4.0, 0.0], [0.0, 0.0]]))
      >>> w.solve(jnp.array([[2.0, 3.0]])), int(w.rank)
      (Array([[0.5, 0. ]], dtype=float32), 1)
    """
    c = as_matrix(second_moment)
    dead = ~(jnp.any(c != 0, axis=0) | jnp.any(c != 0, axis=1))
    if not holds_or_traced(jnp.any(dead) & ~jnp.all(dead)):
        return whitener(c)
    made = whitener(c + jnp.diag(dead.astype(c.dtype)))
    assert isinstance(made, CholeskyWhitener)
    return LiveWhitener(jnp.where(dead, 0, made.scale), made.factor)


def _dropped(whitener: PseudoInverse) -> str:
    return (
        f"whitener: {whitener.width - int(whitener.rank)} of {whitener.width} directions dropped, "
        f"their eigenvalues lost in the rounding of {whitener.dtype.name}; if C is ill-conditioned "
        'rather than singular use method="refined" or float64, else give rcond to choose them'
    )


@jax.jit
def _is_symmetric(c: Array) -> Array:
    """To a thousandth; compiled, as its parts would be four more matrices of the size of C."""
    sizes = jnp.sqrt(jnp.abs(jnp.diagonal(c)))
    return jnp.all(jnp.abs(c - c.T) <= 1e-3 * sizes[:, None] * sizes[None])


@jax.jit
def _condition(whitener: Whitener) -> Array:
    def inverse(vector: Array) -> Array:
        return whitener.solve(vector[None])[0]

    d, dtype = whitener.width, whitener.dtype
    return largest_eigenvalue(whitener.second_moment, d, dtype) * largest_eigenvalue(
        inverse, d, dtype
    )
