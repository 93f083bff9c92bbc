"""Triangular systems: by substitution, and by products of matrices where these are quicker."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from kis_jax.core.arrays.checks import known
from kis_jax.core.arrays.mesh import by_rows
from kis_jax.core.arrays.products import matmul

_MANY = 1024  # rows, from which on products of matrices solve faster than LAPACK does
_BLOCK = 256  # unknowns that are solved for by an inverse
_STRIP = 128  # unknowns of a single row that are solved for together
_LEAF = 16  # unknowns that are found one by one


def solve_rows(upper: Array, rows: Array, *, transpose: bool = False) -> Array:
    """Solves `x @ R = rows` for an upper-triangular R `(d, d)`; `x @ R.T = rows` if transposed.

    LAPACK and its like on other devices want matrices by columns. R by rows is R.T by columns, and
    so it is read where it lies; a lower-triangular factor would be copied for every solve. For many
    rows, products of matrices are quicker than substitution: see `_by_halves`. Where the rows are
    dealt out over devices, each solves for its own.
    """
    return by_rows(_solve_rows, rows, upper, transpose=transpose)


def _solve_rows(rows: Array, upper: Array, *, transpose: bool) -> Array:
    n = rows.shape[0]
    if known(n) and n == 1:
        return _in_strips(upper, rows, transpose)
    if not known(n) or n < _MANY:
        return _substituted(upper, rows, transpose)
    return _by_halves(upper, _diagonal_inverses(upper), rows, transpose)


def _substituted(upper: Array, rows: Array, transpose: bool) -> Array:
    return jax.lax.linalg.triangular_solve(
        upper.T, rows, left_side=False, lower=True, transpose_a=not transpose
    )


def _in_strips(upper: Array, row: Array, transpose: bool) -> Array:
    """A few unknowns by substitution, and what they leave to all others: bound by reading R.

    For a single row this is twice as quick as LAPACK's solve for many.
    """
    strips = [slice(start, start + _STRIP) for start in range(0, len(upper), _STRIP)]
    found = []
    for strip in strips[::-1] if transpose else strips:
        size = len(upper[strip])
        cut = row.shape[1] - size if transpose else size
        own, rest = (row[:, cut:], row[:, :cut]) if transpose else (row[:, :cut], row[:, cut:])
        found.append(_substituted(upper[strip, strip], own, transpose))
        across = upper[: strip.start, strip].T if transpose else upper[strip, strip.stop :]
        row = rest - matmul(found[-1], across)
    return jnp.concatenate(found[::-1] if transpose else found, axis=1)


def _by_halves(upper: Array, inverses: Array, rows: Array, transpose: bool) -> Array:
    """Half of the unknowns, what they leave to the others, and the others: nearly all products.

    Only blocks on the diagonal are inverted, which loses no more digits than substitution does.
    """
    d = len(upper)
    if len(inverses) == 1:
        inverse = inverses[0, :d, :d]
        return matmul(rows, inverse.T if transpose else inverse)
    blocks = (len(inverses) + 1) // 2
    half = blocks * inverses.shape[1]
    corner = upper[:half, half:]
    first, second = (
        (upper[:half, :half], inverses[:blocks]),
        (upper[half:, half:], inverses[blocks:]),
    )
    if transpose:
        right = _by_halves(*second, rows[:, half:], transpose)
        left = _by_halves(*first, rows[:, :half] - matmul(right, corner.T), transpose)
    else:
        left = _by_halves(*first, rows[:, :half], transpose)
        right = _by_halves(*second, rows[:, half:] - matmul(left, corner), transpose)
    return jnp.concatenate([left, right], axis=1)


def _diagonal_inverses(upper: Array) -> Array:
    """Of the blocks on the diagonal, `(blocks, size, size)`, the last filled up by the identity."""
    d = len(upper)
    size = min(d, _BLOCK)
    identity = jnp.eye(size, dtype=upper.dtype)
    blocks = [
        identity.at[: d - start, : d - start].set(upper[start : start + size, start : start + size])
        for start in range(0, d, size)
    ]
    return jax.vmap(triangular_inverse)(jnp.stack(blocks))


def solve_columns(factor: Array, columns: Array, *, transpose: bool = False) -> Array:
    """Solves L x = columns for a lower-triangular L, or L.T x = columns."""
    return jax.lax.linalg.triangular_solve(
        factor, columns, left_side=True, lower=True, transpose_a=transpose
    )


def triangular_inverse(upper: Array) -> Array:
    r"""The inverse of an upper-triangular matrix, `(d, d)`, nearly all of it by products.

    Small blocks on the diagonal are inverted by substitution, all at once. Then neighbours are
    joined, $\begin{pmatrix} A & B \\ & D \end{pmatrix}^{-1} = \begin{pmatrix} A^{-1} &
    -A^{-1} B D^{-1} \\ & D^{-1} \end{pmatrix}$, until one is left. It serves inside longer
    computations: LAPACK is as quick, but on CPUs its threads keep spinning for some 25 ms after
    each solve, which slows the products that come next. What lies below the diagonal is not used.
    """
    d = len(upper)
    leaves = 1 << (-(-d // _LEAF) - 1).bit_length()
    padded = jnp.eye(leaves * _LEAF, dtype=upper.dtype).at[:d, :d].set(upper)
    place = jnp.arange(leaves, dtype=jnp.int32)
    found = _by_substitution(padded.reshape(leaves, _LEAF, leaves, _LEAF)[place, :, place])
    while len(found) > 1:
        pairs, size = len(found) // 2, found.shape[1]
        tiles, place = padded.reshape(pairs, 2, size, pairs, 2, size), place[:pairs]
        first, second = found[::2], found[1::2]
        corner = -matmul(matmul(first, tiles[place, 0, :, place, 1]), second)
        found = jnp.block([[first, corner], [jnp.zeros_like(corner), second]])
    return found[0, :d, :d]


def _by_substitution(upper: Array) -> Array:
    """Inverses of upper-triangular matrices, `(blocks, d, d)`, from the last row to the first."""
    _, d, _ = upper.shape
    identity = jnp.eye(d, dtype=upper.dtype)

    def row(i: Array, found: Array) -> Array:
        i = d - 1 - i
        later = matmul(upper[:, None, i], found)[:, 0]  # rows not yet found are zero
        return found.at[:, i].set((identity[i] - later) / upper[:, i, i, None])

    return jax.lax.fori_loop(0, d, row, jnp.zeros_like(upper))
