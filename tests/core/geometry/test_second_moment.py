import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kis_jax as kis
from tests import references


def test_equals_the_loop_and_skips_masked_tokens(rng):
    keys = rng.normal(size=(4, 7, 5)).astype(np.float32)
    mask = rng.random((4, 7)) < 0.6
    moment = kis.SecondMoment.zeros(5).update(keys, mask)
    np.testing.assert_allclose(moment.mean, references.second_moment(keys[mask]), rtol=1e-5)
    assert int(moment.count) == mask.sum()


def test_padding_may_hold_nan():
    keys = jnp.array([[1.0, 2.0], [jnp.nan, jnp.inf]])
    moment = kis.SecondMoment.zeros(2).update(keys, jnp.array([True, False]))
    np.testing.assert_array_equal(moment.mean, [[1, 2], [2, 4]])


def test_bfloat16_keys_are_summed_in_float32():
    """1001 has no bfloat16, whose neighbours there are 1000 and 1008."""
    keys = jnp.ones((1001, 1), jnp.bfloat16)
    moment = kis.SecondMoment.zeros(1).update(keys)
    assert moment.total.dtype == jnp.float32
    assert moment.total[0, 0] == 1001


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 6), st.integers(0, 6), st.integers(0, 6), st.integers(0, 2**16))
def test_merge_is_a_commutative_monoid(a, b, c, seed):
    rng = np.random.default_rng(seed)
    with jax.enable_x64(True):
        parts = [
            kis.SecondMoment.zeros(3, jnp.float64).update(jnp.asarray(rng.normal(size=(n, 3))))
            for n in (a, b, c)
        ]
        left = parts[0].merge(parts[1]).merge(parts[2])
        right = parts[2].merge(parts[0].merge(parts[1]))
        np.testing.assert_allclose(left.total, right.total, atol=1e-12)
        neutral = left.merge(kis.SecondMoment.zeros(3, jnp.float64))
        np.testing.assert_array_equal(neutral.total, left.total)
        assert int(left.count) == int(right.count) == a + b + c


def test_runs_under_jit_vmap_and_grad(rng):
    keys = jnp.asarray(rng.normal(size=(3, 6, 4)), jnp.float32)
    zeros = jax.vmap(lambda _: kis.SecondMoment.zeros(4))(jnp.arange(3))
    stacked = jax.jit(jax.vmap(kis.SecondMoment.update))(zeros, keys)
    assert stacked.mean.shape == (3, 4, 4)
    for layer in range(3):
        np.testing.assert_allclose(
            stacked.mean[layer], references.second_moment(np.asarray(keys[layer])), rtol=1e-4
        )
    gradient = jax.grad(lambda k: jnp.trace(kis.SecondMoment.zeros(4).update(k).total))(keys)
    np.testing.assert_allclose(gradient, 2 * keys, rtol=1e-6)


@pytest.mark.parametrize(
    ("keys", "where", "name"),
    [
        (jnp.ones((2, 4)), None, "keys"),
        (jnp.ones((2, 3)), jnp.ones(3, bool), "where"),
    ],
)
def test_wrong_shapes_are_named(keys, where, name):
    with pytest.raises(ValueError, match=rf"^{name}: expected shape .* found"):
        kis.SecondMoment.zeros(3).update(keys, where)


def test_moments_of_other_widths_do_not_merge():
    with pytest.raises(ValueError, match="other: expected"):
        kis.SecondMoment.zeros(3).merge(kis.SecondMoment.zeros(4))
