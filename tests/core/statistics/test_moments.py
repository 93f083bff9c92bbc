import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, PartitionSpec

import kis_jax as kis


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("axis", [None, 0, 1, (0, 2), -1])
def test_equal_scipys(rng, axis):
    x = rng.standard_t(4, size=(5, 6, 7))
    found = kis.moments(jnp.asarray(x), axis)
    rest = [i for i in range(3) if axis is not None and i not in np.atleast_1d(axis) % 3]
    flat = np.moveaxis(x, rest, range(len(rest))).reshape(*(x.shape[i] for i in rest), -1)
    np.testing.assert_allclose(found.mean, flat.mean(-1), rtol=1e-12)
    np.testing.assert_allclose(found.variance, flat.var(-1), rtol=1e-12)
    np.testing.assert_allclose(found.skewness, scipy.stats.skew(flat, -1), rtol=1e-10)
    np.testing.assert_allclose(found.kurtosis, scipy.stats.kurtosis(flat, -1), rtol=1e-10)


@pytest.mark.usefixtures("x64")
def test_where_leaves_entries_out(rng):
    x = rng.normal(size=(8, 9))
    where = rng.random((8, 9)) < 0.5
    x[~where] = np.nan
    found = kis.moments(jnp.asarray(x), where=where)
    assert float(found.count) == where.sum()
    np.testing.assert_allclose(found.kurtosis, scipy.stats.kurtosis(x[where]), rtol=1e-10)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=3, max_size=3), st.integers(0, 2**16))
def test_merging_parts_gives_the_whole_in_any_order(sizes, seed):
    rng = np.random.default_rng(seed)
    with jax.enable_x64(True):
        samples = [jnp.asarray(rng.gamma(1.0, size=n) + 100 * seed) for n in sizes]
        a, b, c = map(kis.moments, samples)
        whole = kis.moments(jnp.concatenate(samples))
        for merged in (a.merge(b).merge(c), c.merge(a.merge(b)), b.merge(c).merge(a)):
            for name in ("count", "mean", "m2", "m3", "m4"):
                np.testing.assert_allclose(
                    getattr(merged, name), getattr(whole, name), rtol=1e-7, atol=1e-6
                )


def test_float32_stays_accurate_over_many_merges(rng):
    """A million entries with a large mean, merged tile by tile in float32."""
    x = (rng.standard_t(5, size=(1000, 1000)) + 30).astype(np.float32)
    parts = kis.moments(jnp.asarray(x), axis=1)
    empty = kis.moments(jnp.zeros(0))

    def merge(total, part):
        return total.merge(part), None

    total, _ = jax.lax.scan(merge, empty, parts)
    expected = scipy.stats.kurtosis(x.astype(np.float64), axis=None)
    assert float(total.count) == 1e6
    np.testing.assert_allclose(total.kurtosis, expected, rtol=1e-4)


def test_counts_of_a_thousand_million_do_not_overflow_float32():
    quarter = kis.Moments(*(jnp.float32(v) for v in (2.5e8, 0.5, 2.5e8, 0.0, 7.5e8)))
    half = quarter.merge(quarter)
    whole = half.merge(half)
    assert float(whole.count) == 1e9
    np.testing.assert_allclose(whole.variance, 1.0, rtol=1e-6)
    np.testing.assert_allclose(whole.kurtosis, 0.0, atol=1e-6)


def test_small_parts_are_not_lost_in_a_large_whole():
    """2^24 entries of mean 0, then a hundred times 24 of mean 5, in float32."""
    whole = kis.Moments(*(jnp.float32(v) for v in (1.6e7, 0.0, 1.6e7, 0.0, 4.8e7)))
    part = kis.Moments(*(jnp.float32(v) for v in (24, 5.0, 0.0, 0.0, 0.0)))
    merged = whole
    for _ in range(100):
        merged = merged.merge(part)
    share = 2400 / 1.60024e7
    np.testing.assert_allclose(merged.count, 1.60024e7, rtol=1e-7)
    np.testing.assert_allclose(merged.mean, 5 * share, rtol=1e-4)
    variance = (1 - share) + 25 * share * (1 - share)
    np.testing.assert_allclose(merged.variance, variance, rtol=1e-5)


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e8])
def test_any_scale_and_no_scale(rng, scale):
    x = rng.standard_t(5, size=1000).astype(np.float32)
    found = kis.moments(jnp.asarray(scale * x, jnp.float32))
    if scale**4 > 1e-40:
        np.testing.assert_allclose(found.kurtosis, scipy.stats.kurtosis(x), rtol=1e-3)
    assert jnp.isnan(kis.moments(jnp.full(10, 0.1 * scale, jnp.float32)).kurtosis)
    assert jnp.isnan(kis.moments(jnp.full(10, 0.1 * scale, jnp.float32)).skewness)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_summed_in_float32(rng, dtype):
    x = jnp.asarray(rng.normal(size=70_001) + 3, dtype)
    found = kis.moments(x)
    assert found.mean.dtype == jnp.float32 and float(found.count) == 70_001
    np.testing.assert_allclose(found.mean, np.asarray(x, np.float64).mean(), rtol=1e-5)


def test_integers_are_read_as_floats_and_complex_numbers_refused():
    assert kis.moments(jnp.array([1, 2, 3])).mean == 2
    with pytest.raises(ValueError, match="x: expected real"):
        kis.moments(jnp.array([1j]))


def assert_accurate(found, x, tolerance):
    """Mean relative to the standard deviation, variance and kurtosis, against float64."""
    x = np.asarray(x, np.float64).ravel()
    np.testing.assert_allclose((found.mean - x.mean()) / x.std(), 0, atol=tolerance)
    np.testing.assert_allclose(found.variance, x.var(), rtol=tolerance)
    np.testing.assert_allclose(found.kurtosis, scipy.stats.kurtosis(x), rtol=tolerance)


@pytest.mark.parametrize("shift", [0, 10])
def test_a_thousand_million_entries_keep_five_digits(rng, shift):
    """A stream of 1.07e9 float32 entries in as many parts as a scan would yield, 1,048,576.

    The parts are 1,024 different ones in random order: the whole has the moments of these.
    """
    x = (rng.standard_t(6, size=(1024, 1024)) + shift).astype(np.float32)
    parts = kis.moments(jnp.asarray(x), axis=1)
    order = rng.permutation(np.repeat(np.arange(1024), 1024))
    stream = jax.tree.map(lambda field: field[order], parts)
    found = stream.merged()
    assert float(found.count) == 2.0**30
    assert_accurate(found, x, 1e-5)


def test_a_large_array_keeps_five_digits(rng):
    """Equal signs and a mean: what makes a plain float32 sum lose most."""
    x = rng.gamma(2.0, size=20_000_003).astype(np.float32)
    assert_accurate(kis.moments(jnp.asarray(x)), x, 1e-5)


def test_doubling_thirty_times_changes_nothing_but_the_count(rng):
    x = jnp.asarray(rng.standard_t(6, size=1000) + 3, jnp.float32)
    start = found = kis.moments(x)
    for _ in range(20):
        found = found.merge(found)
    assert float(found.count) == 1000 * 2**20
    np.testing.assert_allclose(found.kurtosis, start.kurtosis, rtol=1e-5)
    np.testing.assert_allclose(found.variance, start.variance, rtol=1e-5)


def test_transformations(rng):
    x = jnp.asarray(rng.gamma(1.0, size=(8, 1000)), jnp.float32)
    expected = scipy.stats.kurtosis(np.asarray(x, np.float64), axis=None)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))

    def over_devices(part):
        parts = jax.lax.all_gather(kis.moments(part), "data")
        return jax.tree.map(lambda field: jax.lax.pmean(field, "data"), parts.merged())

    whole = jax.shard_map(
        over_devices, mesh=mesh, in_specs=PartitionSpec("data"), out_specs=PartitionSpec()
    )
    np.testing.assert_allclose(jax.jit(whole)(x).kurtosis, expected, rtol=1e-5)
    np.testing.assert_allclose(
        jax.vmap(kis.moments)(x).kurtosis, kis.moments(x, axis=1).kurtosis, rtol=1e-6
    )


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("statistic", ["mean", "variance", "skewness", "kurtosis"])
def test_gradients_are_finite_differences(rng, statistic):
    x = jnp.asarray(rng.gamma(1.0, size=1200))

    def value(x):
        half = kis.moments(x[:600]).merge(kis.moments(x[600:]))
        return getattr(half, statistic)

    gradient, step = jax.grad(value)(x), 1e-5
    for i in (0, 5, 700):
        moved = value(x.at[i].add(step)) - value(x.at[i].add(-step))
        np.testing.assert_allclose(gradient[i], moved / (2 * step), rtol=1e-5, atol=1e-10)


def test_the_gradient_of_a_masked_nan_is_finite():
    where = jnp.array([True, True, True, False])
    gradient = jax.grad(lambda x: kis.moments(x, where=where).variance)(
        jnp.array([1.0, 2.0, 4.0, jnp.nan])
    )
    assert jnp.isfinite(gradient).all()


@pytest.mark.parametrize("axis", [(), (0,), (0, 1), -1])
def test_shapes(axis):
    x = jnp.arange(12.0).reshape(3, 4)
    assert kis.moments(x, axis).mean.shape == np.mean(np.asarray(x), axis).shape
    np.testing.assert_allclose(kis.moments(x, axis).mean, np.mean(np.asarray(x), axis), rtol=1e-6)
    assert kis.moments(jnp.zeros((2, 0)), 1).count.tolist() == [0, 0]
