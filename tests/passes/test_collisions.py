"""Collisions against graphs of scipy, loops over pairs and all orders tried."""

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from kis_jax.passes.collisions import clusters, colliding_pairs, gentle_order


def test_pairs_above_the_bound_come_once_and_the_strongest_first(rng):
    p = rng.normal(size=(9, 9))
    found = colliding_pairs(p, 0.8)
    expected = {
        frozenset((i, j)) for i, j in itertools.permutations(range(9), 2) if abs(p[i, j]) > 0.8
    }
    assert {frozenset(pair) for pair in found.tolist()} == expected
    assert len(found) == len(expected)
    strengths = [abs(p[i, j]) for i, j in found]
    assert strengths == sorted(strengths, reverse=True)
    assert all(abs(p[i, j]) >= abs(p[j, i]) for i, j in found)


def test_no_pair_above_the_bound():
    assert colliding_pairs(np.eye(3), 0.0).shape == (0, 2)


@given(st.sets(st.tuples(st.integers(0, 11), st.integers(0, 11)), max_size=14))
def test_clusters_are_the_connected_components(pairs):
    pairs = sorted((i, j) for i, j in pairs if i != j)
    rows, columns = np.array(pairs, int).reshape(-1, 2).T
    graph = coo_array((np.ones(len(pairs)), (rows, columns)), shape=(12, 12))
    _, label = connected_components(graph, directed=False)
    parts = [np.flatnonzero(label == one).tolist() for one in np.unique(label)]
    expected = sorted((p for p in parts if len(p) > 1), key=lambda p: (-len(p), p[0]))
    assert clusters(pairs, 12) == expected


@given(st.integers(0, 2**32 - 1))
def test_the_gentle_order_has_the_least_harm_of_all(seed):
    rng = np.random.default_rng(seed)
    keys, lengths = rng.normal(size=(5, 7)), rng.uniform(0.5, 3.0, 5)
    keys *= rng.uniform(0.3, 3.0, (5, 1))
    gram = keys @ keys.T
    harm = (np.abs(gram) * lengths[:, None] / (np.diag(gram)[:, None] * lengths)) ** 2

    def total(order):
        return sum(harm[i, j] for j, i in itertools.combinations(order, 2))

    least = min(map(total, itertools.permutations(range(5))))
    np.testing.assert_allclose(total(gentle_order(np.diag(gram), lengths)), least, rtol=1e-12)
