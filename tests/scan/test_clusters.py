"""The order by cluster is that of SciPy's average linkage, up to turns."""

import numpy as np
import pytest
from scipy.cluster.hierarchy import average
from scipy.spatial.distance import squareform

from kis_jax.scan.clusters import clustered_order


@pytest.mark.parametrize("count", [1, 2, 3, 25])
def test_every_cluster_of_scipy_stands_together(rng, count):
    distance = rng.uniform(size=(count, count))
    distance = distance + distance.T
    np.fill_diagonal(distance, 0)
    order = clustered_order(distance)
    assert sorted(order) == list(range(count))
    place = np.argsort(order)
    members = {index: [index] for index in range(count)}
    steps = average(squareform(distance)) if count > 1 else []
    for step, (first, second, *_) in enumerate(steps):
        members[count + step] = members[int(first)] + members[int(second)]
        places = place[members[count + step]]
        assert places.max() - places.min() == len(places) - 1


def test_blocks_are_found_and_the_closest_ends_meet():
    group = np.array([0, 1, 0, 1])
    distance = np.where(group[:, None] == group, 0.1, 1.0)
    distance[2, 3] = distance[3, 2] = 0.5
    order = clustered_order(distance).tolist()
    assert order in ([0, 2, 3, 1], [1, 3, 2, 0])
