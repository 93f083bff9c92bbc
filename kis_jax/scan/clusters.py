"""An order of facts in which those that collide stand together."""

import numpy as np


def clustered_order(distance: np.ndarray) -> np.ndarray:
    """Leaves of a hierarchical clustering by average linkage, neighbors side by side.

    Equivalent to the leaves of `scipy.cluster.hierarchy.linkage(..., "average")`, each joined
    pair of clusters turned so that the ends that meet are the closest.

    Args:
      distance: symmetric, `(n, n)`; the diagonal is not looked at.

    Returns:
      The indices in their order, `(n,)`.

    Reference:
      Sokal and Michener 1958 (UPGMA).
    """
    between = np.array(distance, dtype=np.float64)
    np.fill_diagonal(between, np.inf)
    members = [[index] for index in range(len(between))]
    for _ in range(len(between) - 1):
        first, second = sorted(divmod(int(between.argmin()), len(between)))
        sizes = len(members[first]), len(members[second])
        merged = np.average(between[[first, second]], axis=0, weights=sizes)
        members[first] = _joined(members[first], members[second], distance)
        members[second] = []
        between[first], between[:, first] = merged, merged
        between[second], between[:, second] = np.inf, np.inf
        between[first, first] = np.inf
    return np.array(members[0], dtype=np.int64)


def _joined(first: list[int], second: list[int], distance: np.ndarray) -> list[int]:
    """Both lists as one, either way round, so that the closest of their ends meet."""
    ways = [(a, b) for a in (first, first[::-1]) for b in (second, second[::-1])]
    before, after = min(ways, key=lambda way: distance[way[0][-1], way[1][0]])
    return before + after
