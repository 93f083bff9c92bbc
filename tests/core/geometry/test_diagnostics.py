import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kis_jax as kis
from tests import references


@pytest.mark.usefixtures("x64")
def test_effective_rank_is_the_participation_ratio_of_the_eigenvalues(rng):
    c = references.spd(rng, 20, 3.0)
    values = np.linalg.eigvalsh(c)
    for scale in (1e-9, 1.0, 1e9):
        found = kis.effective_rank(jnp.asarray(scale * c))
        np.testing.assert_allclose(found, values.sum() ** 2 / (values**2).sum(), rtol=1e-10)
    moment = kis.SecondMoment.zeros(20, jnp.float64).update(jnp.asarray(rng.normal(size=(3, 20))))
    assert 1 < kis.effective_rank(moment) <= 3 + 1e-9
    np.testing.assert_allclose(kis.effective_rank(jnp.eye(20)), 20)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_residual_of_the_inverse_is_the_explicit_one(rng, dtype):
    """Of a whitener with a ridge, so that the residual is far above rounding."""
    with jax.enable_x64(dtype == "float64"):
        c = references.spd(rng, 200, 3.0)
        c = c / np.sqrt(np.outer(np.diag(c), np.diag(c)))
        whitener = kis.whitener(jnp.asarray(c, dtype), ridge=1e-2)
        product = c @ np.linalg.inv(c + 1e-2 * np.eye(200)) - np.eye(200)
        expected = np.linalg.norm(product) / np.sqrt(200)
        found = kis.inverse_residual(jnp.asarray(c, dtype), whitener)
        np.testing.assert_allclose(found, expected, rtol=0.2)
        exact = kis.inverse_residual(jnp.asarray(c, dtype), kis.whitener(jnp.asarray(c, dtype)))
        assert 0 < exact < 1e4 * jnp.finfo(dtype).eps
        units = 10.0 ** rng.uniform(-3, 3, 200)
        other = jnp.asarray(np.outer(units, units) * c, dtype)
        assert 0 < kis.inverse_residual(other, kis.whitener(other)) < 1e4 * jnp.finfo(dtype).eps


@pytest.mark.usefixtures("x64")
def test_null_space_does_not_depend_on_the_scale_of_c(rng):
    c = references.spd(rng, 30, 4.0)
    values, vectors = np.linalg.eigh(c)
    free = vectors[:, values <= 0.05 * values.mean()]
    assert 0 < free.shape[1] < 30
    for scale in (1e-12, 1.0, 1e12):
        projector = kis.null_space(jnp.asarray(scale * c), threshold=0.05)
        np.testing.assert_allclose(projector, free @ free.T, atol=1e-10)


def test_bad_arguments_are_named():
    whitener = kis.whitener(jnp.eye(3))
    with pytest.raises(ValueError, match="second_moment: expected shape"):
        kis.effective_rank(jnp.ones((2, 3)))
    with pytest.raises(ValueError, match=r"second_moment: expected shape \(3, 3\)"):
        kis.inverse_residual(jnp.eye(2), whitener)
    with pytest.raises(ValueError, match="second_moment: expected shape"):
        kis.null_space(jnp.ones(3))
    with pytest.raises(ValueError, match="second_moment: expected finite"):
        kis.null_space(jnp.full((2, 2), jnp.nan))
    with pytest.raises(ValueError, match="found none under 1; raise the threshold"):
        kis.null_space(jnp.eye(3))
