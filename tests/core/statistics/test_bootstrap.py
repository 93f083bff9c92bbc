import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import kis_jax as kis
from kis_jax.core.statistics.bootstrap import draw_counts
from tests import references


def explicit(p, counts):
    """Kurtosis of the matrix that a resample of facts really has."""
    drawn = np.repeat(np.arange(len(p)), counts)
    entries = [p[i, j] for i in drawn for j in drawn if i != j]
    return scipy.stats.kurtosis(entries)


@pytest.mark.usefixtures("x64")
def test_equals_matrices_that_are_really_resampled(rng):
    p = 1e-5 * (rng.standard_t(4, size=(12, 12)) + 3)
    np.fill_diagonal(p, 1)
    key, confidence = jax.random.key(3), 0.8
    values = [explicit(p, draw_counts(k, 12)) for k in jax.random.split(key, 300)]
    found = kis.kurtosis_interval(key, jnp.asarray(p), resamples=300, confidence=confidence)
    np.testing.assert_allclose(found.lower, np.quantile(values, 0.1), rtol=1e-10)
    np.testing.assert_allclose(found.upper, np.quantile(values, 0.9), rtol=1e-10)
    np.testing.assert_allclose(found.std, np.std(values), rtol=1e-10)


def test_float32_with_a_mean_far_from_zero(rng):
    p = rng.standard_t(6, size=(40, 40)) + 20
    key = jax.random.key(0)
    found = kis.kurtosis_interval(key, jnp.asarray(p, jnp.float32), resamples=200)
    values = [explicit(p, draw_counts(k, 40)) for k in jax.random.split(key, 200)]
    np.testing.assert_allclose(found.lower, np.quantile(values, 0.025), rtol=1e-3)
    np.testing.assert_allclose(found.upper, np.quantile(values, 0.975), rtol=1e-3)


def test_it_holds_the_truth_about_as_often_as_it_says():
    """Products of uniform numbers, whose kurtosis is known: (1.8)^2 - 3."""

    def one(key):
        first, second = jax.random.split(key)
        facts = jax.random.uniform(first, (60,), minval=-1)
        return kis.kurtosis_interval(second, jnp.outer(facts, facts), resamples=200, confidence=0.9)

    found = jax.vmap(one)(jax.random.split(jax.random.key(0), 200))
    truth = 9 * 9 / 25 - 3
    coverage = np.mean((found.lower < truth) & (truth < found.upper))
    assert 0.82 < coverage < 0.96


def test_more_facts_are_surer(rng):
    p = jnp.asarray(rng.normal(size=(200, 200)), jnp.float32)
    few = kis.kurtosis_interval(jax.random.key(0), p[:20, :20])
    many = kis.kurtosis_interval(jax.random.key(0), p)
    assert many.upper - many.lower < (few.upper - few.lower) / 3


def test_traced_once_for_any_key(rng):
    p, traces = jnp.asarray(rng.normal(size=(9, 9)), jnp.float32), []

    @jax.jit
    def run(p, key):
        traces.append(1)
        return kis.kurtosis_interval(key, p, resamples=10)

    assert run(p, jax.random.key(0)).std != run(p, jax.random.key(1)).std
    assert len(traces) == 1


def test_bad_arguments_are_named():
    key = jax.random.key(0)
    with pytest.raises(ValueError, match="superposition: expected a square matrix"):
        kis.kurtosis_interval(key, jnp.ones((2, 3)))
    with pytest.raises(ValueError, match="resamples"):
        kis.kurtosis_interval(key, jnp.ones((3, 3)), resamples=1)
    with pytest.raises(ValueError, match="confidence"):
        kis.kurtosis_interval(key, jnp.ones((3, 3)), confidence=95)


def test_convergence_at_all_facts_is_the_kurtosis_itself(rng, x64):
    p = rng.standard_t(4, size=(40, 40))
    curve = kis.kurtosis_convergence(jax.random.key(0), jnp.asarray(p), (8, 40))
    expected = scipy.stats.kurtosis(references.off_diagonal(p))
    np.testing.assert_allclose([curve.mean[1], curve.low[1], curve.high[1]], expected, rtol=1e-9)
    again = kis.kurtosis_interval(jax.random.key(1), jnp.asarray(p), resamples=2000)
    np.testing.assert_allclose([curve.lower[1], curve.upper[1]], again[:2], rtol=0.35)
    assert curve.upper[0] > curve.lower[0]


def test_subsets_hold_each_fact_once(rng, x64):
    """Of four facts, subsets of three are four: their kurtosis is one of four numbers."""
    p = rng.normal(size=(4, 4))
    curve = kis.kurtosis_convergence(jax.random.key(0), jnp.asarray(p), (3,), resamples=400)
    leaving = [
        scipy.stats.kurtosis(references.off_diagonal(np.delete(np.delete(p, i, 0), i, 1)))
        for i in range(4)
    ]
    np.testing.assert_allclose(curve.mean[0], np.mean(leaving), atol=0.1)
    np.testing.assert_allclose([curve.low[0], curve.high[0]], [min(leaving), max(leaving)])


@pytest.mark.parametrize("sizes", [(), (2,), (8, 41)])
def test_convergence_needs_sizes_within_the_facts(sizes):
    with pytest.raises(ValueError, match="sizes: expected numbers of facts from 3 to 40"):
        kis.kurtosis_convergence(jax.random.key(0), jnp.ones((40, 40)), sizes)


@pytest.mark.parametrize("count", [3, 4, 5])
def test_resamples_of_two_facts_of_a_symmetric_matrix_are_left_out(count):
    """Their entries are all equal, and what is left of their variance is rounding."""
    for seed in range(3):
        p = jax.random.normal(jax.random.key(seed), (count, count))
        found = kis.kurtosis_interval(jax.random.key(seed), p + p.T)
        assert abs(found.upper) < 100 and found.std < 100


@pytest.mark.parametrize("make", [jax.random.key, jax.random.PRNGKey])
def test_the_random_key_last_is_still_taken_with_a_warning(make, rng):
    p, key = jnp.asarray(rng.normal(size=(6, 6)), jnp.float32), make(2)
    with pytest.warns(DeprecationWarning, match="rng: expected the random key first") as warned:
        found = kis.kurtosis_interval(p, key, resamples=8)
    assert warned[0].filename == __file__
    assert found == kis.kurtosis_interval(key, p, resamples=8)


def test_the_random_key_after_the_sizes_likewise(rng):
    p, key = jnp.asarray(rng.normal(size=(6, 6)), jnp.float32), jax.random.key(2)
    with pytest.warns(DeprecationWarning, match="rng: expected the random key first"):
        curve = kis.kurtosis_convergence(p, (3, 6), key, resamples=8)
    np.testing.assert_array_equal(curve, kis.kurtosis_convergence(key, p, (3, 6), resamples=8))
