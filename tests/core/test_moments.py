import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

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
