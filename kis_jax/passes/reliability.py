"""When P is known well enough: how closely it would agree with P of endless text."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from kis_jax.core.arrays.precision import HOST, Inverse
from kis_jax.core.geometry.superposition import superposition
from kis_jax.core.statistics.bootstrap import kurtosis_interval

_FIRST = 4  # tokens for each dimension of keys at the first look
_RESAMPLES = 200  # of the facts, for the interval of kurtosis
_STEP = 2**0.25  # by how much the text is longer at the next look
_KEPT = 5  # looks: each is held against the one four before, of half the text


@dataclasses.dataclass(frozen=True)
class Estimate:
    """How well P is known at one layer.

    Attributes:
      correlation: estimated, of P between different facts with that of endless text; NaN if
        nothing can be said yet.
      kurtosis: of P between different facts, excess.
      low: lower limit of its 95 % interval, by drawing facts anew; NaN while C has no inverse.
      high: upper limit.
      steady: whether the kurtosis from half of the text lies within the interval.
    """

    correlation: float
    kurtosis: float
    low: float
    high: float
    steady: bool


class Reliability:
    r"""Looks at P between facts while C is measured, and tells when it is known.

    Let P from n tokens be that of endless text and noise of $1/n$: then P from the first $n / \rho$
    of them has $\rho$ times the noise, most of it its own, and the two correlate by c with
    $c^2 = (1 + x) / (1 + \rho x)$, where x is the noise of P over its variance. Hence
    $x = (1 - c^2) / (\rho c^2 - 1)$, and P correlates with that of endless text by
    $1 / \sqrt{1 + x}$. This is split-half reliability (Spearman 1910, Brown 1910) from a half and
    the whole: the sums of the other half need not be kept, and what the inverse of a C from few
    tokens gets wrong on both sides shows as well.

    Kurtosis counts as known where that from half of the text lies within the interval that the
    choice of facts leaves it: more text would then tell nothing that other facts would not undo.

    A pass that is taken up after an interruption looks anew, and may end a little later.

    Attributes:
      target: the correlation at which P counts as known.
      estimates: of each layer, by its index, at the last look.
    """

    def __init__(
        self,
        keys: np.ndarray,
        layers: tuple[int, ...],
        *,
        target: float,
        ridge: float = 0.0,
        inverse: Inverse = "auto",
    ) -> None:
        """Has not looked yet.

        Args:
          keys: of the facts, `(layers, n, d)`, three facts or more.
          layers: at which P is looked at.
          target: see there.
          ridge: added to the diagonal of C.
          inverse: how C is inverted; see `Precision.whitener`.

        Raises:
          ValueError: if the target is not between 0 and 1.
        """
        if not 0 < target < 1:
            raise ValueError(
                f"reliability: expected a correlation between 0 and 1, such as 0.98, found {target}"
            )
        self._keys, self._layers = keys, layers
        self._ridge = ridge
        self._inverse: Inverse = inverse
        self._seen: list[tuple[int, dict[int, np.ndarray]]] = []
        self._next = _FIRST * keys.shape[-1]
        self.target, self.estimates = target, {}

    def due(self, tokens: int) -> bool:
        """Whether it is time for a look, after so many tokens."""
        return tokens >= self._next

    def look(self, tokens: int, mean_of: Callable[[int], np.ndarray]) -> bool:
        """Looks at P.

        Args:
          tokens: so far.
          mean_of: gives C of one layer, `(d, d)`.

        Returns:
          Whether P is known at every layer.
        """
        while self._next <= tokens:
            self._next = math.ceil(self._next * _STEP)
        found = {
            layer: _between(self._keys[layer], mean_of(layer), self._ridge, self._inverse)
            for layer in self._layers
        }
        before = None
        for earlier in self._seen:  # the last whose text is half as long, or nearly
            before = earlier if tokens >= 1.8 * earlier[0] else before
        for layer, p in found.items():
            apart = ~np.eye(len(p), dtype=bool)
            known, kurtosis, (low, high) = math.nan, _kurtosis(p[apart]), _limits(p)
            steady = False
            if before is not None:
                earlier = before[1][layer][apart]
                known = correlation_with_truth(earlier, p[apart], tokens / before[0])
                steady = low <= _kurtosis(earlier) <= high
            self.estimates[layer] = Estimate(known, kurtosis, low, high, steady)
        self._seen = [*self._seen, (tokens, found)][-_KEPT:]
        return self.known

    @property
    def known(self) -> bool:
        """Whether P is known at every layer, as the last look tells."""
        return bool(self.estimates) and all(
            estimate.correlation >= self.target and estimate.steady
            for estimate in self.estimates.values()
        )


def correlation_with_truth(part: np.ndarray, whole: np.ndarray, ratio: float) -> float:
    """The correlation of a measurement with the truth, from one of a part of the same data.

    Args:
      part: measured from the first share of the data.
      whole: from all of them, of the same shape.
      ratio: how many times as many data these are.

    Returns:
      It, from 0 to 1; NaN if nothing can be said, as where something is not finite.

    Examples:
      >>> import numpy as np
      >>> rng = np.random.default_rng(0)
      >>> truth, (first, second) = rng.normal(size=50_000), rng.normal(size=(2, 50_000))
      >>> whole = truth + (first + second) / 2
      >>> estimated = correlation_with_truth(truth + first, whole, 2.0)
      >>> round(estimated, 2), round(float(np.corrcoef(truth, whole)[0, 1]), 2)
      (0.82, 0.82)
    """
    if not (np.isfinite(part).all() and np.isfinite(whole).all()):
        return math.nan
    part, whole = part - part.mean(), whole - whole.mean()
    size = math.sqrt(float(part @ part) * float(whole @ whole))
    square = max(float(part @ whole) / size, 0.0) ** 2 if size else 0.0
    if ratio * square <= 1:  # nothing but noise
        return 0.0
    return 1 / math.sqrt(1 + max(1 - square, 0.0) / (ratio * square - 1))


def _between(
    keys: np.ndarray, second_moment: np.ndarray, ridge: float, inverse: Inverse
) -> np.ndarray:
    """P, `(n, n)`; NaN while C has no inverse."""
    with HOST.active():
        try:
            whitening = HOST.whitener(second_moment, ridge=ridge, inverse=inverse)
        except ValueError:  # fewer tokens than dimensions, as yet
            return np.full((len(keys), len(keys)), np.nan)
        return np.asarray(superposition(jnp.asarray(keys, jnp.float64), whitening))


def _limits(p: np.ndarray) -> tuple[float, float]:
    """Of the kurtosis of P, `(n, n)`."""
    if not np.isfinite(p).all():
        return math.nan, math.nan
    with HOST.active():
        found = kurtosis_interval(jax.random.key(0), jnp.asarray(p), resamples=_RESAMPLES)
    return float(found.lower), float(found.upper)


def _kurtosis(p: np.ndarray) -> float:
    squares = (p - p.mean()) ** 2
    return float(np.mean(squares**2) / np.mean(squares) ** 2 - 3)
