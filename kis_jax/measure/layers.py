"""What one layer's keys and second moment say: P, its relatives, and their statistics."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from kis_jax.core.host import float64_on_host
from kis_jax.core.moments import moments
from kis_jax.core.summary import Summary, summarize
from kis_jax.core.superposition import (
    cosine_similarity,
    gram,
    off_diagonal_moments,
    superposition,
)
from kis_jax.core.whitening import Whitener, whitener

_DRAWS = 100  # random subsets of facts for each size, for the convergence of kurtosis
_PAIRS = 30  # colliding pairs kept


@dataclasses.dataclass(frozen=True)
class LayerScan:
    """Superposition at one layer.

    Attributes:
      arrays: `superposition, gram, whitening_cosine, activation_cosine` `(n, n)` and `keys`
        `(n, d)`, float64.
      statistics: plain JSON values, as `scan.json` holds them.
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
      ValueError: if C is not positive definite, or a key is zero, for which P has no meaning.
    """
    if (dead := np.flatnonzero(~keys.any(axis=1))).size:
        raise ValueError(
            f"expected keys with some entry that is not zero, found none in that of fact {dead[0]} "
            f"(counted from 0) and {dead.size - 1} more; leave these facts out, or take the keys "
            "at another position"
        )
    unique = np.array([first is None for first in duplicate_of])
    with float64_on_host():
        whitening = whitener(jnp.asarray(second_moment, jnp.float64), ridge=ridge)
        del second_moment  # `8 d^2` bytes, if the caller holds it no longer
        measured = _measure(jnp.asarray(keys, jnp.float64), whitening, jnp.asarray(unique))
    arrays, summary, overall, distinct, condition, draws = jax.tree.map(np.asarray, measured)
    p = arrays["superposition"]
    statistics = {
        "num_facts": len(keys),
        **{name: _number(value) for name, value in overall.items()},
        "max": _number(np.max(p[~np.eye(len(p), dtype=bool)])),
        "condition": _number(condition),
        "kurtosis_without_duplicates": _number(distinct),
        "pairs": [
            {
                "edit": int(i),
                "touched": int(j),
                "superposition": _number(p[i, j]),
                "reverse": _number(p[j, i]),
            }
            for i, j in summary.pairs
        ],
        "convergence": [_percentiles(size, values) for size, values in draws.items()],
    }
    return LayerScan(arrays, statistics)


@jax.jit
def _measure(
    keys: Array, whitening: Whitener, unique: Array
) -> tuple[dict[str, Array], Summary, dict[str, Array], Array, Array, dict[int, Array]]:
    """All that is measured at a layer, as one program compiled once for all layers.

    Statistics too: NumPy's float64 handed to jax outside would be cut to float32.
    """
    p = superposition(keys, whitening)
    arrays = {
        "superposition": p,
        "gram": gram(keys),
        "whitening_cosine": cosine_similarity(keys, whitening),
        "activation_cosine": cosine_similarity(keys),
        "keys": keys,
    }
    different = unique[:, None] & unique & ~jnp.eye(len(keys), dtype=bool)
    summary = summarize(keys, whitening, top=_PAIRS)
    overall = {
        "mean": summary.moments.mean,
        "std": jnp.sqrt(summary.moments.variance),
        "skewness": summary.moments.skewness,
        "kurtosis": summary.moments.kurtosis,
    }
    distinct = moments(p, where=different).kurtosis
    return arrays, summary, overall, distinct, whitening.condition, _convergence(p)


def _convergence(p: Array) -> dict[int, Array]:
    """Kurtosis of P over random subsets of 8, 16, 32, ... of its facts, and over all of them.

    Reference: Hu et al. 2024 (arXiv 2408.07413), appendix C.
    """
    n = p.shape[0]

    def one(seed: Array, size: int) -> Array:
        chosen = jax.random.choice(seed, n, (size,), replace=False)
        return off_diagonal_moments(p[chosen][:, chosen]).kurtosis

    sizes = [2**k for k in range(3, 31) if 2**k < n]
    draws = {
        size: jax.lax.map(
            lambda seed, size=size: one(seed, size), jax.random.split(jax.random.key(size), _DRAWS)
        )
        for size in sizes
    }
    return {**draws, n: off_diagonal_moments(p).kurtosis[None]}


def _percentiles(size: int, values: np.ndarray) -> dict[str, Any]:
    low, high = np.percentile(values, [5, 95])
    return {
        "num_facts": size,
        "kurtosis": _number(values.mean()),
        "low": _number(low),
        "high": _number(high),
    }


def _number(value: np.ndarray | float) -> float | None:
    """A JSON number; None for what JSON cannot say."""
    return float(value) if np.isfinite(value) else None
