"""Rotary positions: queries and keys turned by angles that grow with their position."""

from __future__ import annotations

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
from jax import Array


@dataclasses.dataclass(frozen=True)
class Linear:
    """Positions are divided by `factor`."""

    factor: float


@dataclasses.dataclass(frozen=True)
class Dynamic:
    """The base grows with texts longer than `original` tokens (neural tangent kernel scaling)."""

    factor: float
    original: int


@dataclasses.dataclass(frozen=True)
class Banded:
    """Slow frequencies are divided by `factor`, fast ones are not, those between in part.

    Slow are those that turn fewer than `low` times in `original` tokens, fast are those that turn
    more than `high` times.
    """

    factor: float
    low: float
    high: float
    original: int


@dataclasses.dataclass(frozen=True)
class Long:
    """Each frequency has its own divisors, for texts of up to `original` tokens and longer ones.

    Queries and keys are multiplied by `amplitude` as they are turned (LongRoPE).
    """

    short: tuple[float, ...]
    long: tuple[float, ...]
    original: int
    amplitude: float


@dataclasses.dataclass(frozen=True)
class Ramp:
    """Slow frequencies are divided by `factor`, fast ones are not, those between in part (YaRN).

    As in `Banded`, but frequencies between pass from one to the other by their place in a head, and
    not by how often they turn; where that begins and ends is rounded outwards to `whole` places.
    Queries and keys are multiplied by `amplitude` as they are turned.
    """

    factor: float
    low: float
    high: float
    original: int
    amplitude: float
    whole: bool = True


@dataclasses.dataclass(frozen=True)
class Rotary:
    """Rotary positions of a head.

    Attributes:
      dim: how many entries of each query and key are turned, from the first on; even.
      base: frequencies are `base ** (-2 i / dim)`.
      interleaved: whether pairs are neighbours (0, 1), (2, 3), ... rather than (0, dim / 2), ...
      scaling: how frequencies are changed for texts longer than those first trained on.
      growth: queries are multiplied by `1 + rate log(1 + floor(position / original))`, of these
        two numbers; None if they are not.
    """

    dim: int
    base: float
    interleaved: bool = False
    scaling: Linear | Dynamic | Banded | Ramp | Long | None = None
    growth: tuple[float, int] | None = None

    @property
    def by_length(self) -> bool:
        """Whether a token's rotation also depends on how long its text is."""
        return isinstance(self.scaling, Dynamic | Long)

    def tables(self, positions: Array, lengths: Array) -> tuple[Array, Array]:
        """Cosines and sines of the angles at positions, each `(b, t, dim / 2)` float32.

        Args:
          positions: `(b, t)` int.
          lengths: `(b,)` int, of the texts: each is scaled by its own length alone, whatever
            else is in the batch.
        """
        angles = positions[..., None].astype(jnp.float32) * self._frequencies(lengths)
        amplitude = self.scaling.amplitude if isinstance(self.scaling, Long | Ramp) else 1.0
        return amplitude * jnp.cos(angles), amplitude * jnp.sin(angles)

    def query_scale(self, positions: Array) -> Array | None:
        """What queries at positions are multiplied by, `(b, t)` float32; None for nothing."""
        if self.growth is None:
            return None
        rate, original = self.growth
        return 1 + rate * jnp.log1p((positions // original).astype(jnp.float32))

    def _frequencies(self, lengths: Array) -> Array:
        """Angles from one position to the next: `(dim / 2,)`, or `(b, 1, dim / 2)` by length."""
        exponents = np.arange(0, self.dim, 2) / self.dim
        plain = self.base**-exponents
        match self.scaling:
            case None:
                return jnp.asarray(plain, jnp.float32)
            case Linear(factor):
                return jnp.asarray(plain / factor, jnp.float32)
            case Banded(factor, low, high, original):
                turns = original * plain / (2 * math.pi)
                unscaled = np.clip((turns - low) / (high - low), 0, 1)
                return jnp.asarray(plain * (unscaled + (1 - unscaled) / factor), jnp.float32)
            case Ramp(factor, low, high, original, whole=whole):
                first, last = (self._place(turns, original) for turns in (high, low))
                if whole:
                    first, last = math.floor(first), math.ceil(last)
                first, last = max(first, 0), min(last, self.dim - 1)
                span = last - first or 0.001
                slow = np.clip((np.arange(self.dim // 2) - first) / span, 0, 1)
                return jnp.asarray(plain * (1 - slow + slow / factor), jnp.float32)
            case Dynamic(factor, original):
                excess = jnp.maximum(lengths / original, 1) - 1
                stretch = (1 + factor * excess) ** (self.dim / (self.dim - 2))
                return (self.base * stretch[:, None, None]) ** jnp.asarray(-exponents, jnp.float32)
            case Long(short, long, original):
                divisors = jnp.where(
                    (lengths > original)[:, None, None],
                    jnp.asarray(long, jnp.float32),
                    jnp.asarray(short, jnp.float32),
                )
                return jnp.asarray(plain, jnp.float32) / divisors

    def _place(self, turns: float, length: int) -> float:
        """Where in a head the frequency would stand that turns so often in a text."""
        return self.dim * math.log(length / (turns * 2 * math.pi)) / (2 * math.log(self.base))


def rotate(x: Array, cosines: Array, sines: Array, *, interleaved: bool) -> Array:
    """Turns the first entries of each head, in float32.

    Args:
      x: `(b, t, heads, head_dim)`, queries or keys.
      cosines: `(b, t, dim / 2)`.
      sines: likewise.
      interleaved: how entries are paired; see `Rotary`.

    Returns:
      Of the shape and dtype of `x`; entries from `dim` on are those of `x`.
    """
    dim = 2 * cosines.shape[-1]
    turned, rest = x[..., :dim].astype(jnp.float32), x[..., dim:]
    if interleaved:
        first, second = turned[..., ::2], turned[..., 1::2]
    else:
        first, second = jnp.split(turned, 2, axis=-1)
    cosines, sines = cosines[:, :, None], sines[:, :, None]
    pair = first * cosines - second * sines, second * cosines + first * sines
    if interleaved:
        joined = jnp.stack(pair, axis=-1).reshape(turned.shape)
    else:
        joined = jnp.concat(pair, axis=-1)
    return jnp.concat([joined.astype(x.dtype), rest], axis=-1)
