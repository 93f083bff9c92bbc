import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kis_jax as kis


def hill(values, top):
    """Entry by entry, in float64."""
    falling = sorted((abs(float(x)) for x in values), reverse=True)
    return top / sum(np.log(falling[i] / falling[top]) for i in range(top))


@pytest.mark.parametrize(("dtype", "rtol"), [("float64", 1e-10), ("float32", 1e-5)])
@pytest.mark.parametrize("top", [1, 7, 49])
def test_equals_the_definition(rng, dtype, rtol, top):
    with jax.enable_x64(dtype == "float64"):
        values = jnp.asarray(rng.standard_t(3, size=50), dtype)
        np.testing.assert_allclose(kis.tail_index(values, top), hill(values, top), rtol=rtol)


@pytest.mark.parametrize("index", [0.5, 2.0, 5.0])
def test_finds_the_index_of_a_power_law(rng, index):
    """The estimate over k values has the relative standard error 1 / sqrt(k)."""
    sample = (rng.pareto(index, size=(4, 100_000)) + 1) * rng.choice([-1, 1], size=(4, 100_000))
    found = jax.jit(lambda x: kis.tail_index(x, 10_000))(jnp.asarray(sample, jnp.float32))
    np.testing.assert_allclose(found, index, rtol=0.05)


def test_zeros_do_not_count():
    assert jnp.isnan(kis.tail_index(jnp.array([0.0, 3.0, 0.0]), 2))
    expected = kis.tail_index(jnp.array([4.0, 3.0]), 1)
    np.testing.assert_allclose(kis.tail_index(jnp.array([0.0, 3.0, 0.0, -4.0]), 3), expected)


@pytest.mark.parametrize("top", [0, 3])
def test_top_must_leave_a_threshold(top):
    with pytest.raises(ValueError, match="top: expected 1 to n - 1"):
        kis.tail_index(jnp.ones(3), top)
