"""Facts whose edits land on each other: pairs above a bound, and the clusters that they make."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np


def colliding_pairs(superposition: np.ndarray, bound: float) -> np.ndarray:
    """Pairs of facts of which one's edit lands on the other by more than a bound.

    Args:
      superposition: P, `(n, n)`.
      bound: on the absolute value of its entries.

    Returns:
      `(k, 2)` int: each pair once, the fact whose edit lands harder first, the strongest pair
      first.

    Examples:
      >>> import numpy as np
      >>> colliding_pairs(np.array([[1.0, 0.2, 0.1], [0.7, 1.0, 0.0], [0.1, 0.0, 1.0]]), 0.5)
      array([[1, 0]])
    """
    strength = np.abs(superposition)
    i, j = np.triu_indices(len(strength), 1)
    turned = strength[j, i] > strength[i, j]
    pairs = np.stack([np.where(turned, j, i), np.where(turned, i, j)], axis=1)
    found = strength[pairs[:, 0], pairs[:, 1]]
    order = np.argsort(-found, kind="stable")
    return pairs[order[found[order] > bound]]


def clusters(pairs: Iterable[tuple[int, int]], num_facts: int) -> list[list[int]]:
    """Connected components: facts that collide, directly or through others.

    Args:
      pairs: of colliding facts.
      num_facts: n.

    Returns:
      The components of two facts or more, the largest first, each in ascending order.

    Examples:
      >>> clusters([(3, 1), (1, 0)], num_facts=5)
      [[0, 1, 3]]
    """
    parent = list(range(num_facts))

    def root(fact: int) -> int:
        while parent[fact] != fact:
            parent[fact] = parent[parent[fact]]  # halves the way for those who come after
            fact = parent[fact]
        return fact

    for i, j in pairs:
        parent[root(int(i))] = root(int(j))
    members: dict[int, list[int]] = {}
    for fact in range(num_facts):
        members.setdefault(root(fact), []).append(fact)
    return sorted((m for m in members.values() if len(m) > 1), key=lambda m: (-len(m), m[0]))


def gentle_order(whitened_norms: np.ndarray, residual_norms: np.ndarray) -> np.ndarray:
    r"""The order of sequential edits in which later ones spoil the least of earlier ones.

    An edit i after j moves the value of j by $p_{ij} x_i$; relative to what j asks for, by
    $|G_{ij}|\,|x_i| / (G_{ii} |x_j|)$. Of a pair, the one with the greater $|x|^2 / G$ does the
    greater harm, whatever $G_{ij}$ is; sorted by it, no pair stands the wrong way round. So this
    order has the least sum of squared harms over all pairs, as far as the residuals met are those
    asked for: those who land hard go first, and are themselves spoilt by the gentle.

    Args:
      whitened_norms: $G_{ii} = k_i^\top C^{-1} k_i$, `(n,)`.
      residual_norms: $|x_i|$, `(n,)`.

    Returns:
      `(n,)` int, facts in the order in which to edit them; equals keep theirs.

    Examples:
      >>> import numpy as np
      >>> gentle_order(np.array([100.0, 1.0]), np.array([2.0, 1.0]))
      array([1, 0])
    """
    return np.argsort(-(residual_norms**2) / whitened_norms, kind="stable")
