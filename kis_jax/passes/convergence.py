"""How far a second moment is known: its standard error from the parts that it is summed from."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from kis_jax.core.arrays.precision import HOST, Inverse
from kis_jax.core.geometry.superposition import off_diagonal_moments, superposition
from kis_jax.models import ModelConfig
from kis_jax.passes.not_finite import json_number
from kis_jax.passes.reliability import Reliability

# With fewer parts their spread says little: of 8, some 25 %.
_FEWEST_PARTS = 8
_ROUGH = 8  # tokens for each dimension of C, without which no pass ends for want of time


@dataclasses.dataclass(frozen=True)
class Spread:
    r"""How much parts of a corpus differ in their second moments.

    Of J parts with sums $S_j$ over $n_j$ tokens, together S over N tokens, all that is kept is
    $q = \sum_j \|S_j\|_F^2 / n_j$. Then $(q - \|S\|_F^2 / N) / (J - 1)$ estimates the variance of
    one token times the length over which tokens are alike, and this over N that of $C = S / N$:
    the method of batch means. It costs a pass over each part's sum and no memory, and it counts
    that the tokens of one text are alike, which a formula over single tokens would not.

    A monoid, as the second moments themselves.

    Attributes:
      parts: J.
      squares: q of each layer, `(layers,)` float64.
    """

    parts: int
    squares: np.ndarray

    @classmethod
    def zeros(cls, layers: int) -> Spread:
        """Of no part."""
        return cls(0, np.zeros(layers))

    def add(self, norms: np.ndarray, count: int) -> Spread:
        """With one more part, of Frobenius norms `(layers,)` over `count` tokens."""
        if count == 0:
            return self
        return Spread(self.parts + 1, self.squares + np.asarray(norms, np.float64) ** 2 / count)

    def merge(self, other: Spread) -> Spread:
        """Of the parts of both."""
        return Spread(self.parts + other.parts, self.squares + other.squares)

    def error(self, norms: np.ndarray, count: np.ndarray) -> np.ndarray:
        r"""The standard error of C over its size, $\|\Delta C\|_F / \|C\|_F$, of each layer.

        Args:
          norms: Frobenius norms of the whole sums, `(layers,)`.
          count: tokens of the whole sums, `(layers,)`.

        Returns:
          `(layers,)`; NaN with fewer than two parts.
        """
        if self.parts < 2:
            return np.full(self.squares.shape, np.nan)
        with np.errstate(divide="ignore", invalid="ignore"):
            excess = self.squares * count / np.asarray(norms, np.float64) ** 2 - 1
        return np.sqrt(np.maximum(excess, 0) / (self.parts - 1))

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values, from which `from_json` makes the same numbers."""
        return {"parts": self.parts, "squares": self.squares.tolist()}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Spread:
        """What `as_json` was made of."""
        return cls(int(content["parts"]), np.array(content["squares"], np.float64))


@dataclasses.dataclass(frozen=True)
class Look:
    """How far second moments had converged at one time of a pass.

    Attributes:
      tokens: so far.
      error: of C at each layer, see `Spread.error`; None where it is not known.
      kurtosis: of P between the facts at each layer that is watched; None where it has none.
    """

    tokens: int
    error: list[float | None]
    kurtosis: dict[str, float | None]


@dataclasses.dataclass(frozen=True)
class Watch:
    """What of a pass is looked at from time to time, and when it may end.

    Attributes:
      until: the pass may end where C is known to this relative error at every layer and, if
        kurtosis is watched, it has moved by no more than this part of itself since the look
        before; None for never.
      kurtosis: of P between facts, from the index of a layer and its C; None not to watch it.
      layers: at which kurtosis is watched.
      reliability: the pass may end where it finds P known as well; None not to look at P.
      end: the pass may end at this time, by `time.monotonic`, with a rough C; None for never.
    """

    until: float | None = None
    kurtosis: Callable[[int, np.ndarray], float] | None = None
    layers: tuple[int, ...] = ()
    reliability: Reliability | None = None
    end: float | None = None

    def __post_init__(self) -> None:
        """Raises ValueError if `until` is not between 0 and 1."""
        if self.until is not None and not 0 < self.until < 1:
            raise ValueError(
                f"until: expected a relative error between 0 and 1, such as 0.01, found "
                f"{self.until}"
            )

    def start(self, looks: Sequence[Look] = ()) -> Convergence:
        """Watches a pass from its beginning, or after these looks."""
        return Convergence(self, looks)


class Convergence:
    """Looks at a pass from time to time, and tells when it may end.

    Attributes:
      looks: in their order.
      reliability: that of the watch.
    """

    def __init__(self, watch: Watch, looks: Sequence[Look]) -> None:
        """Goes on to watch a pass; see `Watch.start`."""
        self._watch, self.looks = watch, list(looks)
        self.reliability = watch.reliability

    def look(
        self,
        spread: Spread,
        norms: np.ndarray,
        count: np.ndarray,
        total_of: Callable[[int], np.ndarray],
    ) -> bool:
        """Looks at how far a pass has come.

        Args:
          spread: of the parts so far.
          norms: Frobenius norms of the sums of all layers, `(layers,)`.
          count: of their tokens, `(layers,)`.
          total_of: gives the sum of one layer, `(d, d)`; called for those watched only.

        Returns:
          Whether the pass may end.
        """
        kurtosis = {}
        if self._watch.kurtosis is not None:
            for layer in self._watch.layers:
                found = self._watch.kurtosis(layer, total_of(layer) / int(count[layer]))
                kurtosis[str(layer)] = json_number(found)
        error = [json_number(value) for value in spread.error(norms, count)]
        self.looks.append(Look(int(count[0]), error, kurtosis))
        return self.converged

    def late(self, tokens: int, config: ModelConfig) -> bool:
        """Whether the time of the pass is over, with enough text for a rough C of the model."""
        end, least = self._watch.end, _ROUGH * config.memory_width // config.experts_per_token
        return end is not None and tokens >= least and time.monotonic() >= end

    @property
    def converged(self) -> bool:
        """Whether the pass may end, as the last look tells."""
        until = self._watch.until
        if until is None or not self.looks:
            return False
        last = self.looks[-1]
        if not all(error is not None and error <= until for error in last.error):
            return False
        if self._watch.kurtosis is None:
            return True
        if len(self.looks) < 2:
            return False
        before = self.looks[-2].kurtosis
        return all(
            value is not None
            and (earlier := before.get(layer)) is not None
            and abs(value - earlier) <= until * max(abs(value), 1.0)
            for layer, value in last.kurtosis.items()
        )


def due(parts: int) -> bool:
    """Whether it is time for a look: of 8, 12, 16, 23, 32, ... parts, at each half a doubling.

    Examples:
      >>> [parts for parts in range(40) if due(parts)]
      [8, 12, 16, 23, 32]
    """
    if parts < _FEWEST_PARTS:
        return False
    step = math.floor(2 * math.log2(parts / _FEWEST_PARTS) + 1e-9)
    return parts == math.ceil(_FEWEST_PARTS * 2 ** (step / 2) - 1e-9)


def kurtosis_of(
    keys: np.ndarray, *, ridge: float = 0.0, inverse: Inverse = "auto"
) -> Callable[[int, np.ndarray], float]:
    """What gives the kurtosis of P between facts, from a layer's C; NaN while it has no inverse.

    Args:
      keys: of the facts, `(layers, n, d)`.
      ridge: added to the diagonal of C.
      inverse: how C is inverted; see `Precision.whitener`.
    """

    def kurtosis(layer: int, second_moment: np.ndarray) -> float:
        try:
            whitening = HOST.whitener(second_moment, ridge=ridge, inverse=inverse)
        except ValueError:  # fewer tokens than dimensions, as yet
            return math.nan
        return float(HOST.run(_kurtosis, keys[layer], whitening))

    return kurtosis


@jax.jit
def _kurtosis(keys: Any, whitening: Any) -> Any:
    return off_diagonal_moments(superposition(keys, whitening)).kurtosis
