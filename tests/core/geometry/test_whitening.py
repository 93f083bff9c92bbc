import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kis_jax as kis
from kis_jax.core.arrays.precision import HOST
from tests import references


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("method", ["cholesky", "eigh"])
@pytest.mark.parametrize("ridge", [0.0, 0.3])
def test_whitens_and_solves(rng, method, ridge):
    c = references.spd(rng, 8, 3.0)
    keys = rng.normal(size=(5, 8))
    whitener = kis.whitener(jnp.asarray(c), ridge=ridge, method=method)
    inverse = np.linalg.inv(c + ridge * np.eye(8))
    np.testing.assert_allclose(whitener.solve(jnp.asarray(keys)), keys @ inverse, rtol=1e-9)
    white = np.asarray(whitener.whiten(jnp.asarray(keys)))
    np.testing.assert_allclose(white @ white.T, keys @ inverse @ keys.T, rtol=1e-9)
    assert whitener.rank == 8
    expected = np.linalg.cond(c + ridge * np.eye(8))
    np.testing.assert_allclose(whitener.condition, expected, rtol=1e-8)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("log10_condition", [3.0, 7.0])
def test_condition_by_lanczos_is_close_for_wide_spectra(rng, log10_condition):
    """Wider than the number of Lanczos steps, so the estimate is not exact by construction."""
    c = references.spd(rng, 300, log10_condition)
    condition = float(kis.whitener(jnp.asarray(c)).condition)
    np.testing.assert_allclose(condition, 10**log10_condition, rtol=1e-6)


@pytest.mark.usefixtures("x64")
def test_pseudo_inverse_of_too_few_tokens(rng):
    """Five tokens in eight dimensions, one neuron dead."""
    tokens = rng.normal(size=(5, 8))
    tokens[:, 3] = 0
    c = tokens.T @ tokens / 5
    with pytest.warns(UserWarning, match="whitener: 3 of 8 directions dropped"):
        whitener = kis.whitener(jnp.asarray(c), method="eigh")
    keys = rng.normal(size=(4, 8))
    expected = keys @ np.linalg.pinv(c, rcond=1e-12, hermitian=True)
    np.testing.assert_allclose(whitener.solve(jnp.asarray(keys)), expected, rtol=1e-8)
    assert whitener.rank == 5 and whitener.whiten(jnp.asarray(keys)).shape == (4, 8)
    eigenvalues = np.sort(np.linalg.eigvalsh(c))
    np.testing.assert_allclose(whitener.condition, eigenvalues[-1] / eigenvalues[3], rtol=1e-9)
    traced = jax.jit(lambda c: kis.whitener(c, method="eigh"))(jnp.asarray(c))
    np.testing.assert_allclose(traced.solve(jnp.asarray(keys)), expected, rtol=1e-8)
    assert traced.rank == 5


@pytest.mark.usefixtures("x64")
def test_rcond_drops_directions_whatever_the_scale():
    diagonal = jnp.array([1.0, 1e-2, 1e-5])
    for scale in (1e-8, 1.0, 1e8):
        whitener = kis.whitener(jnp.diag(scale * diagonal), method="eigh", rcond=1e-3)
        assert whitener.rank == 2


def test_scaling_to_unit_diagonal_saves_float32(rng):
    """Neurons of very different size: unscaled, this C is singular in float32."""
    units = np.logspace(-6, 6, 12)
    c = np.outer(units, units) * references.spd(rng, 12, 1.0)
    keys = rng.normal(size=(3, 12)) * units
    p = kis.superposition(jnp.asarray(keys, jnp.float32), kis.whitener(jnp.asarray(c, jnp.float32)))
    np.testing.assert_allclose(p, references.superposition(keys, c), atol=1e-3)


def test_takes_a_second_moment(rng):
    keys = jnp.asarray(rng.normal(size=(50, 4)), jnp.float32)
    moment = kis.SecondMoment.zeros(4).update(keys)
    np.testing.assert_array_equal(kis.whitener(moment).factor, kis.whitener(moment.mean).factor)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_one_token_too_few_is_an_error_whatever_rounding_does(dtype):
    """Rank d - 1: the last pivot is a rounding error, of either sign."""
    with jax.enable_x64(dtype == "float64"):
        for seed in range(20):
            tokens = np.random.default_rng(seed).normal(size=(63, 64))
            c = jnp.asarray(tokens.T @ tokens / 63, dtype)
            with pytest.raises(ValueError, match="positive definite"):
                kis.whitener(c)


def test_not_positive_definite_is_an_error_with_a_remedy():
    with pytest.raises(ValueError, match=r"positive definite.*tokens.*ridge.*eigh"):
        kis.whitener(jnp.ones((3, 3)))
    with pytest.raises(ValueError, match="finite"):
        kis.whitener(kis.SecondMoment.zeros(3))
    with pytest.raises(ValueError, match=r"second_moment: expected shape \(d, d\)"):
        kis.whitener(jnp.ones((3, 2)))
    with pytest.raises(ValueError, match="expected a positive eigenvalue"):
        kis.whitener(-jnp.eye(3), method="eigh")
    with pytest.raises(ValueError, match="expected float32 or float64, found bfloat16"):
        kis.whitener(jnp.eye(3, dtype=jnp.bfloat16))
    with pytest.raises(ValueError, match="method: expected"):
        kis.whitener(jnp.eye(2), method="qr")
    with pytest.raises(ValueError, match="rcond"):
        kis.whitener(jnp.eye(2), rcond=0.1)


@pytest.mark.parametrize("ridge", [0.0, 1e-3])
@pytest.mark.parametrize("source", ["float32", "float64 of NumPy"])
def test_refined_is_right_where_float32_is_not(rng, ridge, source):
    """Condition 1e7 after scaling, in float32 alone, in the units of real neurons."""
    units = 2.0 ** np.linspace(-13, 13, 40).round()
    c = references.spd(rng, 40, 7.0)
    if source == "float32":
        c = c.astype(np.float32).astype(np.float64)
    keys = rng.normal(size=(5, 40)).astype(np.float32)
    given = np.outer(units, units) * c
    given = given if source != "float32" else jnp.asarray(given, jnp.float32)
    whitener = kis.whitener(given, ridge=ridge, method="refined")
    assert whitener.factor.dtype == jnp.float32
    # The reference works in units in which its inverse is accurate.
    inverse = np.linalg.inv(c + ridge * np.diag(units**-2))
    gram = keys.astype(np.float64) @ inverse @ keys.T.astype(np.float64)
    p = kis.superposition(jnp.asarray(keys * units, jnp.float32), whitener)
    np.testing.assert_allclose(p, gram / np.diag(gram)[:, None], atol=2e-6)
    white = np.asarray(whitener.whiten(keys * units), np.float64)
    np.testing.assert_allclose(white @ white.T, gram, rtol=1e-4, atol=1e-6 * gram.max())
    directions = keys @ inverse / units
    error = np.linalg.norm(whitener.solve(keys * units) - directions) / np.linalg.norm(directions)
    assert error < 1e-6
    if not ridge:
        mild = kis.whitener(c, method="refined")
        np.testing.assert_allclose(mild.condition, np.linalg.cond(c), rtol=1e-2)


def test_refined_refuses_what_twice_the_digits_cannot_tell_from_singular(rng):
    tokens = rng.normal(size=(20, 30)).astype(np.float32)
    with pytest.raises(ValueError, match="positive definite"):
        kis.whitener(tokens.T @ tokens, method="refined")


def test_refined_under_vmap_and_grad(rng):
    c = np.stack([references.spd(rng, 6, 2.0) for _ in range(2)]).astype(np.float32)
    keys = rng.normal(size=(2, 4, 6)).astype(np.float32)

    def energy(keys, c):
        whitener = kis.whitener(c, method="refined")
        return jnp.sum(kis.superposition(keys, whitener) ** 2)

    for i, found in enumerate(jax.vmap(energy)(keys, c)):
        np.testing.assert_allclose(found, energy(keys[i], c[i]), rtol=1e-5)
    gradient = jax.grad(energy)(keys[0], c[0])
    expected = jax.grad(lambda keys: jnp.sum(kis.superposition(keys, kis.whitener(c[0])) ** 2))(
        keys[0]
    )
    np.testing.assert_allclose(gradient, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


def with_dead_neurons(rng):
    """C of eight neurons, two of which never fired, and keys: one alive, one of the dead alone."""
    c, keys = np.zeros((8, 8)), rng.normal(size=(4, 8))
    live = [0, 1, 3, 4, 6, 7]
    c[np.ix_(live, live)] = references.spd(rng, 6, 3.0)
    keys[2, live] = 0
    return c, keys, live


@pytest.mark.parametrize("inverse", ["auto", "pseudo"])
def test_dead_neurons_are_dropped_as_the_pseudo_inverse_does(rng, inverse):
    c, keys, live = with_dead_neurons(rng)
    whitener = HOST.whitener(c, inverse=inverse)
    expected = keys @ np.linalg.pinv(c, rcond=1e-12, hermitian=True)
    np.testing.assert_allclose(HOST.run(whitener.solve, keys), expected, rtol=1e-8, atol=1e-9)
    white = HOST.run(whitener.whiten, keys)
    np.testing.assert_allclose(white @ white.T, keys @ expected.T, rtol=1e-8, atol=1e-9)
    assert not white[2].any() and white[[0, 1, 3]].any(axis=1).all()
    condition = np.linalg.cond(c[np.ix_(live, live)])
    with HOST.active():
        assert whitener.rank == 6 and whitener.width == 8
        np.testing.assert_allclose(whitener.condition, condition, rtol=1e-6)
        moment = kis.SecondMoment(10 * jnp.asarray(c), jnp.asarray(10))
    again = HOST.run(HOST.whitener(moment, inverse=inverse).solve, keys)
    np.testing.assert_allclose(again, expected, rtol=1e-8, atol=1e-9)


def test_a_key_in_turned_dropped_directions_alone_is_zero_to_the_last_digit(rng):
    """Rounding leaves it a share of 1e-32, by which an edit would be divided."""
    turn = np.linalg.qr(rng.normal(size=(8, 8)))[0]
    c = turn[:, :6] @ np.diag(np.geomspace(1, 1e-4, 6)) @ turn[:, :6].T
    keys = np.stack([turn[:, 7], turn[:, 7] + 1e-3 * turn[:, 5]])
    whitener = HOST.whitener(c, inverse="pseudo")
    white = HOST.run(whitener.whiten, keys)
    assert not white[0].any()
    np.testing.assert_allclose(np.linalg.norm(white[1]), 0.1, rtol=1e-6)


def test_other_singular_second_moments_are_refused_with_both_ways_out(rng):
    c, _, _ = with_dead_neurons(rng)
    half = c.copy()
    half[0] = half[:, 0] = half[1] = half[:, 1] = 0
    half[0, 0] = half[0, 1] = half[1, 0] = half[1, 1] = 1  # two neurons that always fire alike
    awry = c.copy()
    awry[2, 0] = awry[0, 2] = 1e-9  # no second moment: the neuron never fired, and yet with another
    for wrong, inverse in ((c, "cholesky"), (half, "auto"), (np.zeros_like(c), "auto")):
        with pytest.raises(ValueError, match="positive definite.*--ridge, --inverse pseudo"):
            HOST.whitener(wrong, inverse=inverse)
    with pytest.raises(ValueError, match="expected a symmetric matrix|positive definite"):
        HOST.whitener(awry)
    with pytest.raises(ValueError, match="inverse: expected one of .*found 'qr'"):
        HOST.whitener(c, inverse="qr")
    ridged = HOST.whitener(c, ridge=0.5)
    with HOST.active():
        assert ridged.rank == 8  # a ridge gives dead neurons a length of their own


def test_where_every_neuron_fires_auto_is_cholesky_bit_for_bit(rng):
    c = references.spd(rng, 8, 3.0)
    auto, cholesky = (HOST.whitener(c, inverse=inverse) for inverse in ("auto", "cholesky"))
    assert type(auto) is type(cholesky) is kis.core.CholeskyWhitener
    np.testing.assert_array_equal(auto.factor, cholesky.factor)
    np.testing.assert_array_equal(auto.scale, cholesky.scale)
