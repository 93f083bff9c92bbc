"""Colliding pairs that models have in common, against what chance would give."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from kis_jax.passes.collisions import colliding_pairs

TOP = 30


def compared_pairs(
    labels: Sequence[str], matrices: Sequence[np.ndarray], facts: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """The strongest pairs of each model, and which are among those of others too.

    Args:
      labels: of the models.
      matrices: P of each, `(n, n)`.
      facts: as `scan.json` has them; pairs of one subject are no collision of two facts.

    Returns:
      As `compare.json` holds it.
    """
    groups = [
        place if fact["duplicate_of"] is None else int(fact["duplicate_of"])
        for place, fact in enumerate(facts)
    ]
    lists = [_strongest(p, groups) for p in matrices]
    n = len(facts)
    sizes = [groups.count(group) for group in set(groups)]
    candidates = n * (n - 1) // 2 - sum(size * (size - 1) // 2 for size in sizes)
    return {
        "top": TOP,
        "candidates": candidates,
        "overlaps": [
            _overlap(labels, lists, first, second, candidates)
            for first, second in itertools.combinations(range(len(lists)), 2)
        ],
        "shared": _shared(matrices, lists, facts),
    }


def _strongest(p: np.ndarray, groups: Sequence[int]) -> list[frozenset[int]]:
    """Pairs of facts of different subjects, the strongest first."""
    found = colliding_pairs(np.nan_to_num(p), 0.0)
    different = (pair for pair in found.tolist() if groups[pair[0]] != groups[pair[1]])
    return [frozenset(pair) for pair in itertools.islice(different, TOP)]


def _overlap(
    labels: Sequence[str],
    lists: Sequence[list[frozenset[int]]],
    first: int,
    second: int,
    candidates: int,
) -> dict[str, Any]:
    one, two = lists[first], lists[second]
    shared = len(set(one) & set(two))
    return {
        "first": labels[first],
        "second": labels[second],
        "shared": shared,
        "expected": len(one) * len(two) / max(candidates, 1),
        "probability": overlap_probability(shared, len(one), len(two), candidates),
    }


def overlap_probability(shared: int, one: int, two: int, candidates: int) -> float:
    """The probability that two lists drawn at random share so many pairs or more.

    Args:
      shared: how many they share.
      one: length of the first list.
      two: length of the second.
      candidates: from which both are drawn.

    Returns:
      The upper tail of the hypergeometric distribution.

    Examples:
      >>> round(overlap_probability(1, 2, 2, 4), 4)
      0.8333
    """
    ways = sum(
        math.comb(one, k) * math.comb(candidates - one, two - k)
        for k in range(shared, min(one, two) + 1)
        if two - k <= candidates - one
    )
    return ways / math.comb(candidates, two)


def _shared(
    matrices: Sequence[np.ndarray],
    lists: Sequence[list[frozenset[int]]],
    facts: Sequence[dict[str, Any]],
) -> list[dict[str, Any]]:
    """Pairs in the lists of two models or more: those of most models first, then the stronger."""
    counted = {
        pair: [place for place, pairs in enumerate(lists) if pair in pairs]
        for pair in sorted({pair for pairs in lists for pair in pairs}, key=sorted)
    }
    found = []
    for pair, places in counted.items():
        if len(places) < 2:
            continue
        i, j = sorted(pair)
        values = [_stronger(p, i, j) for p in matrices]
        found.append(
            {
                "facts": [_words(facts[i], i), _words(facts[j], j)],
                "models": places,
                "superposition": values,
            }
        )
    return sorted(found, key=lambda row: (-len(row["models"]), -_strength(row)))[:TOP]


def _strength(row: dict[str, Any]) -> float:
    return sum(abs(row["superposition"][place] or 0.0) for place in row["models"])


def _stronger(p: np.ndarray, i: int, j: int) -> float | None:
    """The entry of the pair that is the larger in absolute value."""
    value = p[i, j] if abs(p[i, j]) >= abs(p[j, i]) else p[j, i]
    return float(value) if math.isfinite(value) else None


def _words(fact: dict[str, Any], index: int) -> dict[str, Any]:
    return {"index": index, **{name: fact[name] for name in ("prompt", "subject", "target")}}
