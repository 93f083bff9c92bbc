import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kis_jax as kis
from tests import references


def oas(c, n):
    """Chen et al. 2010, eq. 23, over the matrix scaled to unit diagonal; traces by loops."""
    d = len(c)
    r = c / np.sqrt(np.outer(np.diag(c), np.diag(c)))
    trace = sum(r[i, i] for i in range(d))
    squares = sum(r[i, j] * r[j, i] for i in range(d) for j in range(d))
    rho = ((1 - 2 / d) * squares + trace**2) / ((n + 1 - 2 / d) * (squares - trace**2 / d))
    rho = min(1.0, rho)
    return (1 - rho) * c + rho * np.diag(np.diag(c)), rho


def moment_of(keys):
    d = keys.shape[1]
    return kis.SecondMoment.zeros(d, keys.dtype).update(jnp.asarray(keys))


@pytest.mark.parametrize("tokens", [5, 20, 1000])
def test_equals_the_formula(rng, x64, tokens):
    keys = rng.normal(size=(tokens, 12)) @ rng.normal(size=(12, 12)) * np.logspace(0, 3, 12)
    moment = moment_of(keys)
    shrunk = kis.shrink(moment)
    expected, rho = oas(np.asarray(moment.mean), tokens)
    np.testing.assert_allclose(shrunk.mean, expected, rtol=1e-9)
    np.testing.assert_allclose(shrunk.intensity, rho, rtol=1e-9)


def test_a_smaller_count_shrinks_more(rng, x64):
    moment = moment_of(rng.normal(size=(50, 12)) @ rng.normal(size=(12, 12)))
    expected, rho = oas(np.asarray(moment.mean), 10)
    found = kis.shrink(moment, count=10)
    np.testing.assert_allclose(found.mean, expected, rtol=1e-9)
    assert found.intensity > kis.shrink(moment).intensity


def test_it_makes_the_error_of_a_normal_sample_smaller(rng, x64):
    """What it is derived for: normal keys, about as many as dimensions."""
    root = rng.normal(size=(30, 30)) / 5 + np.eye(30)
    true = root.T @ root
    before = after = 0.0
    for _ in range(20):
        moment = moment_of(rng.normal(size=(40, 30)) @ root)
        before += np.linalg.norm(moment.mean - true)
        after += np.linalg.norm(kis.shrink(moment).mean - true)
    assert after < 0.9 * before


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**31), st.sampled_from([1, 5, 20]))
def test_it_is_definite_with_any_number_of_tokens_and_free_of_units(seed, tokens):
    rng = np.random.default_rng(seed)
    keys = rng.normal(size=(tokens, 8)).astype(np.float32)
    units = np.logspace(-2, 2, 8).astype(np.float32)
    shrunk, scaled = kis.shrink(moment_of(keys)), kis.shrink(moment_of(keys * units))
    np.testing.assert_allclose(shrunk.intensity, scaled.intensity, rtol=2e-3)
    assert np.linalg.eigvalsh(np.asarray(shrunk.mean, np.float64)).min() > 0
    assert 0 <= shrunk.intensity <= 1


def test_works_under_jit_and_over_layers(rng):
    stacked = jax.vmap(moment_of)(jnp.asarray(rng.normal(size=(3, 20, 6)), jnp.float32))
    batched = jax.jit(jax.vmap(kis.shrink))(stacked)
    for row in range(3):
        alone = kis.shrink(jax.tree.map(lambda x, row=row: x[row], stacked))
        np.testing.assert_allclose(batched.mean[row], alone.mean, rtol=1e-4, atol=1e-6)


def test_silent_neurons_stay_silent(rng):
    keys = rng.normal(size=(20, 6)).astype(np.float32)
    keys[:, 2] = 0
    shrunk = kis.shrink(moment_of(keys))
    assert not np.any(shrunk.mean[2]) and np.isfinite(shrunk.mean).all()
    kept = [0, 1, 3, 4, 5]
    expected, _ = oas(references.second_moment(keys[:, kept]), 20)
    np.testing.assert_allclose(shrunk.mean[np.ix_(kept, kept)], expected, rtol=1e-3, atol=1e-5)


def test_errors_name_the_argument():
    with pytest.raises(ValueError, match="second_moment: expected a SecondMoment, found"):
        kis.shrink(jnp.eye(3))  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="second_moment: expected finite entries"):
        kis.shrink(kis.SecondMoment.zeros(3))
