"""What one layer's keys and second moment say: P, its relatives, and their statistics."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from kis_jax.core.moments import moments
from kis_jax.core.summary import summarize
from kis_jax.core.superposition import (
    cosine_similarity,
    gram,
    off_diagonal_moments,
    superposition,
)
from kis_jax.core.whitening import whitener

_DRAWS = 100  # random subsets of facts for each size, for the convergence of kurtosis
_PAIRS = 30  # colliding pairs kept


@dataclasses.dataclass(frozen=True)
class LayerScan:
    """Superposition at one layer.

    Attributes:
      arrays: `superposition, gram, whitening_cosine, activation_cosine` `(n, n)` and `keys`
        `(n, d)`, float64.
      statistics: plain numbers, as `scan.json` holds them.
    """

    arrays: dict[str, np.ndarray]
    statistics: dict[str, object]


def scan_layer(
    keys: np.ndarray,
    second_moment: np.ndarray,
    *,
    ridge: float,
    duplicate_of: Sequence[int | None],
) -> LayerScan:
    """Superposition of facts at one layer, in float64 on the host whatever the device.

    Args:
      keys: `(n, d)`.
      second_moment: C, `(d, d)`.
      ridge: added to the diagonal of C.
      duplicate_of: for each fact, the index of an earlier one with the same subject, or None.

    Raises:
      ValueError: if C is not positive definite.
    """
    with float64_on_host():
        k = jnp.asarray(keys, jnp.float64)
        whitening = whitener(jnp.asarray(second_moment, jnp.float64), ridge=ridge)
        p = superposition(k, whitening)
        arrays = {
            "superposition": p,
            "gram": gram(k),
            "whitening_cosine": cosine_similarity(k, whitening),
            "activation_cosine": cosine_similarity(k),
            "keys": k,
        }
        summary = summarize(k, whitening, tile=len(keys), top=_PAIRS)
        unique = np.array([i for i, first in enumerate(duplicate_of) if first is None])
        statistics = {
            "num_facts": len(keys),
            "mean": _number(summary.moments.mean),
            "std": _number(jnp.sqrt(summary.moments.variance)),
            "skewness": _number(summary.moments.skewness),
            "kurtosis": _number(summary.moments.kurtosis),
            "max": _number(jnp.max(jnp.where(jnp.eye(len(keys), dtype=bool), -jnp.inf, p))),
            "condition": _number(whitening.condition),
            "kurtosis_without_duplicates": (
                _number(off_diagonal_moments(p[unique][:, unique]).kurtosis)
                if len(unique) > 1
                else None
            ),
            "pairs": [
                {
                    "edit": int(i),
                    "touched": int(j),
                    "superposition": _number(p[i, j]),
                    "reverse": _number(p[j, i]),
                }
                for i, j in np.asarray(summary.pairs)
            ],
            "convergence": convergence(p),
        }
        return LayerScan({name: np.asarray(array) for name, array in arrays.items()}, statistics)


def convergence(p: Array) -> list[dict[str, float | int | None]]:
    """Kurtosis of P over random subsets of its facts, by the size of the subset.

    Args:
      p: superposition matrix, `(n, n)`.

    Returns:
      For sizes 8, 16, 32, ... and n: `num_facts`, the mean `kurtosis` over 100 subsets, and its
      5th and 95th percentile `low` and `high`; for n itself, the one value thrice.

    Reference: Hu et al. 2024 (arXiv 2408.07413), appendix C.
    """
    n = p.shape[0]
    rows = []
    for size in [*(2**k for k in range(3, 31) if 2**k < n), n]:
        draws = 1 if size == n else _DRAWS
        seeds = jax.random.split(jax.random.key(size), draws)
        values = np.asarray(_subset_kurtosis(p, seeds, size))
        low, high = np.percentile(values, [5, 95])
        rows.append(
            {
                "num_facts": size,
                "kurtosis": _number(values.mean()),
                "low": _number(low),
                "high": _number(high),
            }
        )
    return rows


def _subset_kurtosis(p: Array, seeds: Array, size: int) -> Array:
    """Off-diagonal kurtosis of one random principal submatrix for each seed."""

    def one(seed: Array) -> Array:
        chosen = jax.random.choice(seed, p.shape[0], (size,), replace=False)
        return moments(p[chosen][:, chosen], where=~jnp.eye(size, dtype=bool)).kurtosis

    return jax.lax.map(one, seeds)


@contextlib.contextmanager
def float64_on_host() -> Iterator[None]:
    """Within it, jax computes in float64 on the CPU, whatever accelerator there is."""
    with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
        yield


def _number(value: Array | np.ndarray | float) -> float | None:
    """A JSON number; None for what JSON cannot say."""
    return float(value) if np.isfinite(value) else None
