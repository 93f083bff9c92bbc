import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from jax.sharding import AxisType, PartitionSpec

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


@pytest.mark.parametrize("tile", [8, 16, 1000])
@pytest.mark.parametrize("explicit", [False, True])
def test_float32_with_equal_and_explicit_bins(rng, tile, explicit):
    keys = rng.standard_t(4, size=(131, 20))
    c = references.spd(rng, 20, 1.0)
    p = references.off_diagonal(references.superposition(keys, c))
    edges = np.linspace(-1, 1, 31)
    summary = kis.summarize(
        jnp.asarray(keys, jnp.float32),
        kis.whitener(jnp.asarray(c, jnp.float32)),
        tile=tile,
        bins=jnp.asarray(edges, jnp.float32) if explicit else 30,
    )
    expected = np.histogram(p, edges)[0]
    # An entry within rounding of an edge may be on either side.
    assert np.abs(summary.histogram - expected).sum() <= 4
    assert abs(int(summary.outside) - (p.size - expected.sum())) <= 2
    np.testing.assert_allclose(summary.moments.variance, p.var(), rtol=1e-5)
    np.testing.assert_allclose(summary.moments.kurtosis, scipy.stats.kurtosis(p), rtol=1e-5)


def test_float32_moments_of_entries_far_from_zero(rng):
    """A common direction of all keys: the mean of P is 50 times its standard deviation."""
    keys = jnp.asarray(rng.standard_t(9, size=(300, 64)) + 25, jnp.float32)
    found = kis.summarize(keys, kis.whitener(jnp.eye(64)), tile=32).moments
    p = references.off_diagonal(references.superposition(np.asarray(keys), np.eye(64)))
    assert p.mean() > 50 * p.std()
    np.testing.assert_allclose((found.mean - p.mean()) / p.std(), 0, atol=1e-4)
    np.testing.assert_allclose(found.variance, p.var(), rtol=1e-3)


def test_equal_keys_are_counted_within_the_last_bin():
    keys = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    summary = kis.summarize(keys, kis.whitener(jnp.eye(2)), bins=4)
    assert summary.histogram.tolist() == [0, 0, 4, 2] and int(summary.outside) == 0
    np.testing.assert_allclose(summary.effective_pairs, 2, rtol=1e-6)


@pytest.mark.usefixtures("x64")
def test_tail_index_and_effective_pairs_are_those_of_the_whole_matrix(rng):
    keys, whitener, p = case(rng)
    summary = kis.summarize(keys, whitener, tile=4, top=12)
    entries = references.off_diagonal(p)
    strengths = np.maximum(np.abs(p), np.abs(p.T))[np.triu_indices(23, 1)]
    np.testing.assert_allclose(
        summary.tail_index, kis.tail_index(jnp.asarray(strengths), 11), rtol=1e-10
    )
    expected = (entries**2).sum() ** 2 / (entries**4).sum()
    np.testing.assert_allclose(summary.effective_pairs, expected, rtol=1e-10)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("tile", [4, 1000])
def test_pairs_within_a_group_are_not_listed(rng, tile):
    keys, whitener, p = case(rng)
    groups = np.arange(23) % 5
    summary = kis.summarize(keys, whitener, tile=tile, top=253, groups=jnp.asarray(groups))
    everything = kis.summarize(keys, whitener, tile=tile)
    jax.tree.map(np.testing.assert_array_equal, summary.moments, everything.moments)
    different = groups[:, None] != groups
    kept = int(np.triu(different).sum())
    listed = {frozenset(pair) for pair in np.asarray(summary.pairs[:kept]).tolist()}
    assert listed == {frozenset(pair) for pair in np.argwhere(different).tolist()}
    assert (summary.pairs[kept:] == -1).all() and (summary.values[kept:] == 0).all()
    strongest = np.max(np.where(different, np.abs(p), 0))
    np.testing.assert_allclose(abs(summary.values[0]), strongest, rtol=1e-10)
    assert jnp.isfinite(summary.tail_index)


def test_transformations_and_one_trace(rng):
    layers = jnp.asarray(rng.normal(size=(8, 30, 6)), jnp.float32)
    moments = jnp.asarray([references.spd(rng, 6, 1.0) for _ in range(8)], jnp.float32)
    traces = []

    def one(keys, second_moment):
        traces.append(1)
        return kis.summarize(keys, kis.whitener(second_moment), tile=8, top=5)

    compiled = jax.jit(one)
    each = [compiled(*layer) for layer in zip(layers, moments, strict=True)]
    assert len(traces) == 1
    each = jax.tree.map(lambda *fields: jnp.stack(fields), *each)
    mesh = jax.make_mesh((8,), ("layer",), axis_types=(AxisType.Auto,))
    spec = PartitionSpec("layer")
    batched = jax.vmap(one)
    sharded = jax.shard_map(batched, mesh=mesh, in_specs=(spec, spec), out_specs=spec)
    for found in (jax.jit(batched)(layers, moments), jax.jit(sharded)(layers, moments)):
        for name in ("histogram", "outside", "pairs"):
            np.testing.assert_array_equal(getattr(found, name), getattr(each, name))
        np.testing.assert_allclose(found.values, each.values, rtol=1e-4)
        np.testing.assert_allclose(found.moments.kurtosis, each.moments.kurtosis, rtol=1e-4)


def test_more_facts_than_int32_can_count_need_x64():
    keys = jax.ShapeDtypeStruct((50_000, 3), jnp.float32)
    whitener = kis.whitener(jnp.eye(3))
    with pytest.raises(ValueError, match="at most 46,340 facts.*found 50,000"):
        jax.eval_shape(lambda k: kis.summarize(k, whitener), keys)
    with jax.enable_x64(True):
        found = jax.eval_shape(lambda k: kis.summarize(k, whitener), keys)
    assert found.histogram.dtype == jnp.int64 and found.values.dtype == jnp.float32


def test_bad_arguments_are_named():
    whitener = kis.whitener(jnp.eye(3))
    with pytest.raises(ValueError, match="groups: expected shape"):
        kis.summarize(jnp.ones((4, 3)), whitener, groups=jnp.arange(3))
    with pytest.raises(ValueError, match="bins: expected"):
        kis.summarize(jnp.ones((4, 3)), whitener, bins=jnp.ones((2, 2)))
    with pytest.raises(ValueError, match="keys: expected shape"):
        kis.summarize(jnp.ones((1, 3)), whitener)
    with pytest.raises(ValueError, match="row 1 to be one"):
        kis.summarize(jnp.ones((4, 3)).at[1].set(0), whitener)
    with pytest.raises(ValueError, match="bins: expected a number or rising edges"):
        kis.summarize(jnp.ones((4, 3)), whitener, bins=jnp.array([1.0, 0.0]))
    with pytest.raises(ValueError, match="tile, top"):
        kis.summarize(jnp.ones((4, 3)), whitener, tile=0)
