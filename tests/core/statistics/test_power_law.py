import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import kis_jax as kis


@pytest.mark.parametrize("count", [3, 5, 30])
@pytest.mark.parametrize("confidence", [0.5, 0.95])
def test_equals_scipys_regression(rng, x64, count, confidence):
    x = rng.uniform(1, 1e9, count)
    y = 3 * x**0.4 * np.exp(rng.normal(size=count))
    law = kis.fit_power_law(x, y, confidence=confidence)
    line = scipy.stats.linregress(np.log(x), np.log(y))
    half = line.stderr * scipy.stats.t.ppf((1 + confidence) / 2, count - 2)
    expected = [line.slope, line.intercept, line.slope - half, line.slope + half, line.rvalue**2]
    np.testing.assert_allclose(law, expected, rtol=1e-8)


def test_two_points_have_no_interval_and_one_width_no_law():
    law = kis.fit_power_law(jnp.array([1.0, 10.0]), jnp.array([1.0, 100.0]))
    np.testing.assert_allclose(law.exponent, 2, rtol=1e-6)
    assert np.isnan(law.lower) and np.isnan(law.upper)
    assert np.isnan(kis.fit_power_law(jnp.ones(3), jnp.arange(1.0, 4.0)).exponent)
    assert np.isnan(kis.fit_power_law(jnp.arange(1.0, 4.0), -jnp.ones(3)).exponent)


def test_whole_numbers_are_numbers_and_equal_ones_give_no_law():
    law = kis.fit_power_law(jnp.array([1, 2, 4]), jnp.array([3, 12, 48]))
    np.testing.assert_allclose([law.exponent, jnp.exp(law.logarithm)], [2, 3], rtol=1e-5)
    assert np.isnan(kis.fit_power_law(jnp.array([1, 2]), jnp.array([3.0, 12.0])).lower)
    for count in range(2, 12):  # of which the mean need not be their number
        assert np.isnan(kis.fit_power_law(jnp.full(count, 768.0), jnp.arange(1.0, count + 1))[0])


def test_works_under_jit_and_vmap(rng):
    x = jnp.asarray(rng.uniform(1, 9, 6), jnp.float32)
    y = jnp.asarray(rng.uniform(1, 9, (4, 6)), jnp.float32)
    batched = jax.jit(jax.vmap(kis.fit_power_law, in_axes=(None, 0)))(x, y)
    for row in range(4):
        alone = kis.fit_power_law(x, y[row])
        np.testing.assert_allclose([value[row] for value in batched], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("x", "y"), [([1.0], [1.0]), ([1.0, 2.0], [1.0]), ([[1.0, 2.0]], [[1.0, 2.0]])]
)
def test_shapes_are_checked(x, y):
    with pytest.raises(ValueError, match="x, y: expected two vectors"):
        kis.fit_power_law(jnp.array(x), jnp.array(y))
    with pytest.raises(ValueError, match="confidence: expected"):
        kis.fit_power_law(jnp.ones(3), jnp.ones(3), confidence=1.0)
