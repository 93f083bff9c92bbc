import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

import kis_jax as kis
from tests import references


@pytest.fixture
def p(rng):
    """An uneven P with some related pairs."""
    matrix = 0.05 * rng.normal(size=(40, 40))
    matrix[3, 7] = matrix[7, 3] = 0.8
    matrix[20, 21] = -0.9
    np.fill_diagonal(matrix, 1.0)
    return matrix


@pytest.mark.parametrize(("dtype", "rtol"), [("float64", 1e-10), ("float32", 1e-5)])
def test_equals_scipys_median_deviation(p, dtype, rtol):
    with jax.enable_x64(dtype == "float64"):
        width, share = kis.bulk(jnp.asarray(p, dtype), 50)
    entries = references.off_diagonal(p)
    deviation = scipy.stats.median_abs_deviation(entries, scale="normal")
    np.testing.assert_allclose(width, deviation * np.sqrt(50), rtol=rtol)
    beyond = np.abs(entries - np.median(entries)) > 6 * deviation
    assert beyond.sum() == 3
    np.testing.assert_allclose(share, beyond.mean(), rtol=1e-6)


def test_some_entries_may_be_left_out_and_the_diagonal_always_is(p):
    kept = np.arange(40) != 20
    where = kept[:, None] & kept
    p[20] = 1e6
    some = kis.bulk(jnp.asarray(p), 50, where=where)
    alone = kis.bulk(jnp.asarray(p[np.ix_(kept, kept)]), 50)
    np.testing.assert_allclose(some, alone, rtol=1e-6)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**31), st.sampled_from([60, 300]))
def test_unrelated_directions_have_width_one(seed, rank):
    """Of 200 facts, 20,000 pairs: their robust width is known to a few per cent."""
    unrelated = kis.isotropic_superposition(jax.random.key(seed), jnp.ones(200), rank)
    width, share = kis.bulk(unrelated, rank)
    assert abs(float(width) - 1) < 0.05 and float(share) == 0


def test_isotropic_superposition_has_the_moments_of_the_sphere():
    found = kis.isotropic_superposition(jax.random.key(1), jnp.ones(1500), 12)
    entries = np.asarray(found)[~np.eye(1500, dtype=bool)]
    np.testing.assert_allclose(entries.std(), 1 / np.sqrt(12), rtol=0.01)
    np.testing.assert_allclose(scipy.stats.kurtosis(entries), -6 / 14, atol=0.02)
    np.testing.assert_allclose(np.diagonal(found), 1, rtol=1e-6)


def test_norms_scale_rows_and_columns():
    norms = jnp.array([1.0, 2.0, 4.0])
    plain = kis.isotropic_superposition(jax.random.key(1), jnp.ones(3), 5)
    scaled = kis.isotropic_superposition(jax.random.key(1), norms, 5)
    np.testing.assert_allclose(scaled, plain * norms / norms[:, None], rtol=1e-6)


def test_kurtosis_at_its_own_rank_is_its_own(p, x64):
    entries = references.off_diagonal(p)
    found = kis.kurtosis_at_rank(jnp.asarray(p), 50, jnp.array([50, 200]))
    np.testing.assert_allclose(found[0], scipy.stats.kurtosis(entries), rtol=1e-9)
    centre = np.median(entries)
    deviation = scipy.stats.median_abs_deviation(entries, scale="normal")
    within = np.abs(entries - centre) <= 6 * deviation
    narrowed = np.where(within, (entries - centre) / 2, entries - centre)
    np.testing.assert_allclose(found[1], scipy.stats.kurtosis(narrowed), rtol=1e-9)


def test_width_alone_makes_a_law_of_kurtosis(p):
    """The very same related pairs, and kurtosis grows nearly with the square of the rank."""
    ranks = jnp.array([50, 100, 200])
    grown = kis.kurtosis_at_rank(jnp.asarray(p), 50, ranks)
    assert jnp.all(grown[1:] > 1.5 * grown[:-1])


def test_works_under_jit_and_vmap(p):
    stacked = jnp.stack([jnp.asarray(p), jnp.asarray(p.T)])
    batched = jax.jit(jax.vmap(lambda matrix: kis.bulk(matrix, 50)))(stacked)
    for row, matrix in enumerate(stacked):
        np.testing.assert_allclose([x[row] for x in batched], kis.bulk(matrix, 50), rtol=1e-5)


def test_errors_name_the_argument():
    with pytest.raises(ValueError, match="superposition: expected a square matrix"):
        kis.bulk(jnp.ones((2, 3)), 5)
    with pytest.raises(ValueError, match="superposition: expected a square matrix"):
        kis.kurtosis_at_rank(jnp.ones((1, 1)), 5, 6)
    with pytest.raises(ValueError, match="norms, rank: expected"):
        kis.isotropic_superposition(jax.random.key(0), jnp.ones((2, 2)), 5)
