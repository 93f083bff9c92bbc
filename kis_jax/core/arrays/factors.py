"""Factors of the inverse of a second moment, by three algorithms."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.core import Tracer

from kis_jax.core.arrays.extended import Pair, pair, product, two_sum
from kis_jax.core.arrays.products import matmul
from kis_jax.core.arrays.triangular import solve_columns, solve_rows


class Cholesky(NamedTuple):
    """C scaled by `scale` on both sides is `factor.T @ factor`, if `definite`."""

    scale: Array
    factor: Array
    definite: Array


def cholesky(c: Array, ridge: Array) -> Cholesky:
    """Cholesky's factor of C plus ridge, scaled to unit diagonal, and whether it is definite.

    Rounding makes a singular matrix pass for a definite one half of the time. So its condition
    number counts as well: beyond 1 / epsilon, by three steps of power iteration for the norms of
    matrix and inverse, it is singular as far as this precision can tell. Under tracing the factor
    is then all NaN.
    """
    # Two programs: in one the compiler would hold one more matrix of the size of C.
    scale, factor = _factored(c, ridge)
    definite = _condition(c, ridge, scale, factor) < 1 / jnp.finfo(c.dtype).eps
    if isinstance(definite, Tracer):
        factor = jnp.where(definite, factor, jnp.nan)
    return Cholesky(scale, factor, definite)


@jax.jit
def _factored(c: Array, ridge: Array) -> tuple[Array, Array]:
    """The scale, and the upper factor of the scaled matrix."""
    diagonal = jnp.diagonal(c) + ridge
    scale = jax.lax.rsqrt(diagonal)
    scaled = jnp.fill_diagonal(c * scale[:, None] * scale[None], diagonal * scale**2, inplace=False)
    return scale, jnp.linalg.cholesky(scaled, symmetrize_input=False).T


@jax.jit
def _condition(c: Array, ridge: Array, scale: Array, factor: Array) -> Array:
    """The condition number of the scaled matrix, estimated; NaN if the factor is."""
    image = inverse = jax.random.normal(jax.random.key(0), (1, len(c)), c.dtype)
    for _ in range(3):
        row = scale[None] * image / jnp.linalg.norm(image)
        image = scale[None] * (matmul(row, c) + ridge * row)
        inverse = solve_rows(factor, inverse / jnp.linalg.norm(inverse))
        inverse = solve_rows(factor, inverse, transpose=True)
    return jnp.linalg.norm(image) * jnp.linalg.norm(inverse)


class Refined(NamedTuple):
    """`vectors` V, in two parts, with V C V.T = I for the scaled C, if `definite`."""

    scale: Array
    vectors: Pair
    definite: Array


@jax.jit
def refined(c: Pair, ridge: Array) -> Refined:
    r"""Whitening vectors in twice the digits of float32, from float32 arithmetic alone.

    A float32 Cholesky factor of $C + sI$, with $s = d \epsilon$, gives vectors $V_0 = L^{-1}$ that
    are far from whitening C, but $B = V_0 C V_0^\top$ has a condition number of only $s$ times
    that of C, or so. B is computed in twice the digits and factored, which gives $V_1$. What is
    still amiss, $E = V_1 C V_1^\top - I$, once more in twice the digits, goes into the low part:
    $V = (I - \frac{1}{2} E + \frac{3}{8} E^2) V_1$ leaves errors of the order of $E^3$. The scale
    is rounded to powers of two, so that it changes no digit of C or of keys. All NaN if C is not
    definite, or E too large to be mended.

    Reference: Fukaya, Kannan, Nakatsukasa, Yamamoto and Yanagisawa 2020, Shifted Cholesky QR for
    computing the QR factorization of ill-conditioned matrices, SIAM J. Sci. Comput. 42.
    """
    d = len(c.high)
    identity = jnp.eye(d, dtype=jnp.float32)
    diagonal = jnp.diagonal(c.high) + ridge
    exponent = jnp.round(-0.5 * jnp.log2(diagonal)).astype(jnp.int32)
    scale = jnp.ldexp(jnp.float32(1), exponent)  # exactly a power of two, as exp2 is not
    both = scale[:, None] * scale[None]
    high, rest = two_sum(c.high * both, jnp.diag(ridge * scale**2))
    c = Pair(high, rest + c.low * both)
    shifted = c.high + d * jnp.finfo(jnp.float32).eps * identity
    factor = jnp.linalg.cholesky(shifted, symmetrize_input=False)
    vectors = solve_columns(factor, identity)
    factor = jnp.linalg.cholesky(_second_moment(c, vectors).high)
    vectors = solve_columns(factor, vectors)
    found = _second_moment(c, vectors)
    excess = (found.high - identity) + found.low
    definite = jnp.linalg.norm(excess) < 0.2
    series = matmul(excess, 0.375 * excess) - 0.5 * excess
    vectors = jnp.where(definite, vectors, jnp.nan)
    return Refined(scale, Pair(vectors, matmul(series, vectors)), definite)


def _second_moment(c: Pair, vectors: Array) -> Pair:
    """`vectors @ C @ vectors.T`, in twice the digits."""
    return product(product(pair(vectors), c), pair(vectors))


def pseudo_inverse(c: Array, ridge: Array, rcond: float | None) -> Array:
    """Eigenvectors of C plus ridge over the roots of their eigenvalues, small ones dropped.

    Returns:
      `(d, d)`, columns of zeros where one is dropped.
    """
    d = c.shape[0]
    eigenvalues, vectors = jnp.linalg.eigh(c + ridge * jnp.eye(d, dtype=c.dtype))
    threshold = (d * jnp.finfo(c.dtype).eps if rcond is None else rcond) * eigenvalues[-1]
    kept = eigenvalues > jnp.maximum(threshold, 0)
    return vectors * jnp.where(kept, jax.lax.rsqrt(jnp.where(kept, eigenvalues, 1)), 0)
