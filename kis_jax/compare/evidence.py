"""What one layer of a finished scan says to the paper's claims on angles and on related facts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

_STRONGEST = 20
# What rounding makes of a zero, and much more.
_ZERO = 1e-4
_NEAR = 10.0
_RESAMPLES = 1000


def layer_evidence(
    arrays: Mapping[str, np.ndarray], facts: Sequence[Mapping[str, Any]]
) -> dict[str, float]:
    """Angles in both spaces, and how many of the strongest pairs are of related facts.

    Args:
      arrays: `superposition`, `whitening_cosine` and `activation_cosine` of the layer, `(n, n)`.
      facts: of `scan.json`, each with its `subject`, `relation` and `duplicate_of`.

    Returns:
      `mean_low` and `mean_high`, a 95 % interval of the mean of P off its diagonal, by drawing
      facts anew; `share_not_zero`, of its entries; for each space `angle_mean` and `angle_std`, in
      degrees, and `share_near_right`, of angles from 80 to 100 degrees; `related`, the share of
      the 20 pairs with the largest |p| that have a relation or a word of their subjects in common,
      and `related_by_chance`, that of all pairs. Facts with a key of another one are left out.

    Examples:
      >>> import numpy as np
      >>> arrays = dict.fromkeys(["superposition", "whitening_cosine"], np.eye(3))
      >>> arrays["activation_cosine"] = np.full((3, 3), 0.5)
      >>> people = [dict(subject=f"Ann {n}", relation=n, duplicate_of=None) for n in "abc"]
      >>> told = layer_evidence(arrays, people)
      >>> round(told["angle_mean_whitening"]), round(told["angle_mean_activation"])
      (90, 60)
    """
    single = np.array([fact["duplicate_of"] is None for fact in facts])
    pairs = np.triu(single[:, None] & single[None, :], k=1)
    told: dict[str, float] = {}
    for space in ("whitening", "activation"):
        degrees = np.degrees(np.arccos(np.clip(arrays[f"{space}_cosine"][pairs], -1, 1)))
        told |= {
            f"angle_mean_{space}": float(degrees.mean()),
            f"angle_std_{space}": float(degrees.std()),
            f"share_near_right_{space}": float((np.abs(degrees - 90) <= _NEAR).mean()),
        }
    p = np.abs(arrays["superposition"])
    strength = np.maximum(p, p.T)[pairs]
    related = _related(facts)[pairs]
    strongest = np.argsort(-strength, kind="stable")[:_STRONGEST]
    low, high = _interval_of_mean(arrays["superposition"][np.ix_(single, single)])
    return {
        **told,
        "mean_low": low,
        "mean_high": high,
        "share_not_zero": float((strength > _ZERO).mean()),
        "related": float(related[strongest].mean()),
        "related_by_chance": float(related.mean()),
    }


def _interval_of_mean(p: np.ndarray) -> tuple[float, float]:
    """Percentiles of the mean off the diagonal over facts drawn with replacement.

    A fact that is drawn twice does not meet itself.
    """
    rng, n = np.random.default_rng(0), len(p)
    means = []
    for _ in range(_RESAMPLES):
        weight = np.bincount(rng.integers(n, size=n), minlength=n).astype(np.float64)
        pairs = np.outer(weight, weight)
        np.fill_diagonal(pairs, 0)
        if pairs.any():
            means.append((pairs * p).sum() / pairs.sum())
    low, high = np.percentile(means, (2.5, 97.5))
    return float(low), float(high)


def _related(facts: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Which facts ask for the same relation, or name subjects with a word in common, `(n, n)`."""
    words = [set(fact["subject"].lower().split()) - {"the", "of"} for fact in facts]
    return np.array(
        [
            [bool(one["relation"]) and one["relation"] == other["relation"] or bool(mine & theirs)
             for other, theirs in zip(facts, words, strict=True)]
            for one, mine in zip(facts, words, strict=True)
        ]
    )  # fmt: skip
