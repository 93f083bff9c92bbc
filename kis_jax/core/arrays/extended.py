"""Products of float32 matrices with twice the digits of float32, from float32 arithmetic alone."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from kis_jax.core.arrays.mesh import by_rows

# A slice holds integers of at most 2^7 times a power of two. Six reach 48 bits below the largest
# entry of a row, as far as a pair of float32 numbers.
_BITS, _SLICES = 8, 6
# A product of two slices is at most 2^14, and a sum of 2^10 of them at most 2^24: float32 holds it
# exactly, in whatever order it is summed.
_CHUNK = 2**10 // _SLICES


class Pair(NamedTuple):
    """A matrix as the sum of two in float32, the second far below the rounding of the first."""

    high: Array
    low: Array


def pair(x: ArrayLike) -> Pair:
    """A float64 array in two parts; a narrower one with a second part of zeros.

    The array may be of NumPy: its digits are kept where jax itself has float64 switched off.

    Examples:
      >>> import numpy as np
      >>> high, low = pair(np.array([1 / 3]))
      >>> abs(float(high[0]) + float(low[0]) - 1 / 3) < 1e-15
      True
    """
    if getattr(x, "dtype", None) != "float64":
        high = jnp.asarray(x).astype(jnp.float32)
        return Pair(high, jnp.zeros_like(high))
    high = x.astype("float32")  # pyright: ignore[reportAttributeAccessIssue]
    low = (x - high.astype("float64")).astype("float32")
    return Pair(jnp.asarray(high), jnp.asarray(low))


def two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    """The rounded sum of two floats, and exactly what the rounding left out.

    Reference: Knuth 1997, The Art of Computer Programming, vol. 2, section 4.2.2, theorem B.
    """
    total = a + b
    other = total - a
    return total, (a - (total - other)) + (b - other)


def product(a: Pair, b: Pair) -> Pair:
    r"""Inner products of all rows, $A B^\top$, to about 48 bits below the largest entries.

    Each row is cut into slices of eight bits. The product of two slices is exact in float32 - and
    on devices that multiply bfloat16 or TF32 as well, since eight bits pass through these whole -
    so that the only rounding is where the products are added up, in pairs. It takes the operations
    of 21 plain products. Where the rows of `a` are dealt out over devices, those of the result are.

    Args:
      a: `(p, k)`.
      b: `(q, k)`.

    Returns:
      `(p, q)`. The error of an entry is of the order of `k 2^-48` times the largest entries of the
      two rows.

    Examples:
      >>> import jax.numpy as jnp
      >>> a = jnp.array([[1.0, 1e6, 1.0]])
      >>> b = jnp.array([[1e6, 1.0, -2e6 + 0.25]])
      >>> float(product(pair(a), pair(b)).high[0, 0])
      0.25

    Reference: Ozaki, Ogita, Oishi and Rump 2012, Error-free transformations of matrix
    multiplication, Numerical Algorithms 59.
    """
    return by_rows(_product, a, b)


@jax.jit
def _product(a: Pair, b: Pair) -> Pair:
    k = a.high.shape[1]
    # Never fewer than two chunks: what a loop reads has been stored, and so rounded, once for all.
    # A compiler that fused the making of `a` into the slicing would round it here and not there.
    size = min(_CHUNK, -(-k // 2))
    chunks = max(2, -(-k // size))
    padding = ((0, 0), (0, chunks * size - k))
    operands = [Pair(*(jnp.pad(part, padding) for part in x)) for x in (a, b)]

    def add_chunk(index: Array, total: Pair) -> Pair:
        left, right = (
            _slices(Pair(*(_columns(part, index * size, size) for part in x))) for x in operands
        )
        # Side by side, in opposite orders: the first s slices of a against the first s of b are
        # then one product, of all pairs of slices that are equally large; the smallest come first.
        a_slices, b_slices = jnp.concatenate(left, 1), jnp.concatenate(right[::-1], 1)
        for s in range(_SLICES, 0, -1):
            term = jax.lax.dot_general(
                a_slices[:, : s * size],
                b_slices[:, (_SLICES - s) * size :],
                (((1,), (1,)), ((), ())),
                precision=jax.lax.Precision.DEFAULT,
                preferred_element_type=jnp.float32,
            )
            high, rest = two_sum(total.high, term)
            total = Pair(high, total.low + rest)
        return Pair(*two_sum(*total))

    # Zeros of the data: within `shard_map` they vary over the same axes as what is added to them.
    zeros = jnp.zeros_like(a.high[:, :1]) + jnp.zeros_like(b.high[:, :1]).T
    return jax.lax.fori_loop(0, chunks, add_chunk, Pair(zeros, zeros))


def _columns(x: Array, start: Array, size: int) -> Array:
    return jax.lax.dynamic_slice_in_dim(x, start, size, axis=1)


def _slices(x: Pair) -> list[Array]:
    """Matrices that add up to `x`, each of integers below 2^7 times a power of two for each row."""
    rest, low = x
    _, exponent = jnp.frexp(jnp.max(jnp.abs(rest), axis=1, keepdims=True))
    slices = []
    for _ in range(_SLICES):
        # Adding a number of this size rounds to multiples of 2^(exponent + 1 - _BITS).
        grid = jnp.ldexp(jnp.float32(1.5), exponent + 24 - _BITS)
        slices.append((rest + grid) - grid)
        rest, low = two_sum(rest - slices[-1], low)
        exponent = exponent - _BITS
    return slices
