import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

import kis_jax as kis
from tests import references


@pytest.fixture(params=["float64", "float32"])
def dtype(request):
    with jax.enable_x64(request.param == "float64"):
        yield request.param


def case(rng, dtype, n=9, d=6, log10_condition=2.0):
    c = references.spd(rng, d, log10_condition)
    keys = rng.normal(size=(n, d))
    return jnp.asarray(keys, dtype), jnp.asarray(c, dtype), keys, c


def test_p_equals_the_loop(rng, dtype):
    keys, c, keys64, c64 = case(rng, dtype)
    p = kis.superposition(keys, kis.whitener(c))
    tolerance = references.TOLERANCE[dtype]
    np.testing.assert_allclose(p, references.superposition(keys64, c64), atol=tolerance)
    np.testing.assert_allclose(jnp.diagonal(p), 1, rtol=2e-7)
    assert p.dtype == dtype


def test_p_with_others_equals_the_loop(rng, dtype):
    keys, c, keys64, c64 = case(rng, dtype)
    others = rng.normal(size=(4, 6))
    p = kis.superposition(keys, kis.whitener(c), jnp.asarray(others, dtype))
    expected = references.superposition(keys64, c64, others)
    np.testing.assert_allclose(p, expected, atol=references.TOLERANCE[dtype])


def test_cosines_and_angles_equal_the_loop(rng, dtype):
    keys, c, keys64, c64 = case(rng, dtype)
    for whitener, matrix in ((None, None), (kis.whitener(c), c64)):
        expected = references.cosine(keys64, matrix)
        cosine = kis.cosine_similarity(keys, whitener)
        np.testing.assert_allclose(cosine, expected, atol=references.TOLERANCE[dtype])
        off = ~np.eye(len(keys64), dtype=bool)
        degrees = np.degrees(np.arccos(np.clip(expected, -1, 1)))
        angles = np.asarray(kis.angles(keys, whitener))
        np.testing.assert_allclose(angles[off], degrees[off], rtol=references.TOLERANCE[dtype])


def test_gram_in_both_spaces(rng, dtype):
    keys, c, keys64, c64 = case(rng, dtype)
    tolerance = references.TOLERANCE[dtype]
    np.testing.assert_allclose(kis.gram(keys), keys64 @ keys64.T, rtol=tolerance, atol=tolerance)
    expected = keys64 @ np.linalg.inv(c64) @ keys64.T
    np.testing.assert_allclose(
        kis.gram(keys, kis.whitener(c)), expected, rtol=tolerance, atol=100 * tolerance
    )


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 7), st.integers(2, 8), st.integers(0, 2**16), st.floats(-6, 6))
def test_change_of_basis_and_scale_change_nothing(n, d, seed, log10_scale):
    """P is a property of the facts: k -> A k, C -> A C A' leaves it, and so does any factor."""
    rng = np.random.default_rng(seed)
    with jax.enable_x64(True):
        keys, c = rng.normal(size=(n, d)), references.spd(rng, d, 2.0)
        basis = references.spd(rng, d, 2.0) @ np.linalg.qr(rng.normal(size=(d, d)))[0]
        scale = 10.0**log10_scale
        p = kis.superposition(jnp.asarray(keys), kis.whitener(jnp.asarray(c)))
        changed = kis.superposition(
            jnp.asarray(keys @ basis.T),
            kis.whitener(jnp.asarray(scale * (basis @ c @ basis.T))),
        )
        np.testing.assert_allclose(p, changed, atol=1e-7 * np.abs(p).max())


@pytest.mark.usefixtures("x64")
def test_off_diagonal_moments_equal_scipys(rng):
    matrix = rng.standard_t(4, size=(12, 12))
    entries = references.off_diagonal(matrix)
    found = kis.off_diagonal_moments(jnp.asarray(matrix))
    np.testing.assert_allclose(found.kurtosis, scipy.stats.kurtosis(entries), rtol=1e-12)
    np.testing.assert_allclose(found.mean, entries.mean(), rtol=1e-12)


def test_under_jit_vmap_and_grad(rng):
    keys = jnp.asarray(rng.normal(size=(3, 5, 6)), jnp.float32)
    c = jnp.asarray(np.stack([references.spd(rng, 6, 1.0) for _ in range(3)]), jnp.float32)

    def layer(keys, c):
        return kis.superposition(keys, kis.whitener(c))

    stacked = jax.jit(jax.vmap(layer))(keys, c)
    for i in range(3):
        np.testing.assert_allclose(stacked[i], layer(keys[i], c[i]), atol=1e-5)
    gradient = jax.grad(lambda k: jnp.sum(layer(k, c[0]) ** 2))(keys[0])
    step = 1e-2 * jnp.asarray(rng.normal(size=keys[0].shape), jnp.float32)
    difference = jnp.sum(layer(keys[0] + step, c[0]) ** 2) - jnp.sum(
        layer(keys[0] - step, c[0]) ** 2
    )
    np.testing.assert_allclose(2 * jnp.vdot(gradient, step), difference, rtol=2e-2)


def test_is_traced_once(rng):
    traces = 0

    @jax.jit
    def layer(keys, whitener):
        nonlocal traces
        traces += 1
        return kis.superposition(keys, whitener)

    for seed in range(3):
        keys, c, _, _ = case(np.random.default_rng(seed), "float32")
        layer(keys, kis.whitener(c))
    assert traces == 1


def test_bfloat16_keys_are_compared_in_float32(rng):
    keys = jnp.asarray(rng.normal(size=(5, 64)), jnp.bfloat16)
    exact = references.cosine(np.asarray(keys, np.float64))
    np.testing.assert_allclose(kis.cosine_similarity(keys), exact, atol=1e-6)
    whitener = kis.whitener(jnp.eye(64))
    assert kis.superposition(keys, whitener).dtype == jnp.float32


def test_wrong_shapes_are_named():
    whitener = kis.whitener(jnp.eye(3))
    with pytest.raises(ValueError, match=r"keys: expected shape \(n, 3\).* found \(2, 4\)"):
        kis.superposition(jnp.ones((2, 4)), whitener)
    with pytest.raises(ValueError, match="others: expected"):
        kis.superposition(jnp.ones((2, 3)), whitener, jnp.ones((4, 2)))
    with pytest.raises(ValueError, match="keys: expected"):
        kis.gram(jnp.ones(3))
    with pytest.raises(ValueError, match="matrix: expected a square matrix"):
        kis.off_diagonal_moments(jnp.ones((2, 3)))
