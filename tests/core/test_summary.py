import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import kis_jax as kis
from tests import references


def case(rng, n=23, d=7):
    keys = rng.normal(size=(n, d))
    keys[4] = keys[17] + 0.01 * rng.normal(size=d)
    c = references.spd(rng, d, 1.0)
    return jnp.asarray(keys), kis.whitener(jnp.asarray(c)), references.superposition(keys, c)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("tile", [1, 4, 23, 1000])
def test_equals_the_whole_matrix_for_every_tile(rng, tile):
    keys, whitener, p = case(rng)
    edges = np.linspace(-1, 1, 41)
    summary = kis.summarize(keys, whitener, tile=tile, bins=jnp.asarray(edges), top=6)
    entries = references.off_diagonal(p)
    assert float(summary.moments.count) == len(entries)
    np.testing.assert_allclose(summary.moments.mean, entries.mean(), rtol=1e-10)
    np.testing.assert_allclose(summary.moments.kurtosis, scipy.stats.kurtosis(entries), rtol=1e-9)
    counts = np.histogram(entries, edges)[0]
    np.testing.assert_array_equal(summary.histogram, counts)
    assert int(summary.outside) == len(entries) - counts.sum() > 0
    best = {(i, j): max(abs(p[i, j]), abs(p[j, i])) for i in range(23) for j in range(i)}
    expected = sorted(best.values(), reverse=True)[:6]
    np.testing.assert_allclose(np.abs(summary.values), expected, rtol=1e-10)
    for (i, j), value in zip(np.asarray(summary.pairs), np.asarray(summary.values), strict=True):
        np.testing.assert_allclose(p[i, j], value, rtol=1e-10)
        assert abs(p[i, j]) >= abs(p[j, i])


def test_top_is_cut_to_the_pairs_that_exist(rng):
    keys = jnp.asarray(rng.normal(size=(3, 4)), jnp.float32)
    summary = kis.summarize(keys, kis.whitener(jnp.eye(4)), top=100)
    assert summary.pairs.shape == (3, 2)
    assert {tuple(sorted(pair)) for pair in np.asarray(summary.pairs).tolist()} == {
        (0, 1),
        (0, 2),
        (1, 2),
    }


def test_never_holds_the_whole_matrix(rng):
    """The compiled program has no buffer of n x n, only tiles."""
    n, tile = 4096, 256
    keys = jax.ShapeDtypeStruct((n, 16), jnp.float32)
    whitener = kis.whitener(jnp.eye(16))
    program = jax.jit(lambda k: kis.summarize(k, whitener, tile=tile)).lower(keys).compile()
    assert program.memory_analysis().temp_size_in_bytes < n * n * 4 / 4
    sizes = [
        np.prod([int(size) for size in shape.split(",")])
        for shape in re.findall(r"\w\d+\[([\d,]+)\]", program.as_text())
    ]
    assert max(sizes) <= 4 * tile * tile


def test_bad_arguments_are_named():
    whitener = kis.whitener(jnp.eye(3))
    with pytest.raises(ValueError, match="keys: expected shape"):
        kis.summarize(jnp.ones((1, 3)), whitener)
    with pytest.raises(ValueError, match="tile, top"):
        kis.summarize(jnp.ones((4, 3)), whitener, tile=0)
