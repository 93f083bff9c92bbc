import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec
from scipy.stats import gaussian_kde

import kis_jax as kis
from tests.references import TOLERANCE


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("size", [2, 50, 3000, 4096])
@pytest.mark.parametrize("spread", [1e-3, 1.0])
def test_it_is_scipys_estimate(size, spread):
    sample = spread * np.random.default_rng(size).standard_t(2, size=size)
    points = np.linspace(sample.min() - spread, sample.max() + spread, 257)
    np.random.default_rng(0).shuffle(points)
    expected = gaussian_kde(sample)(points)
    np.testing.assert_allclose(
        kis.gaussian_density(jnp.asarray(sample), jnp.asarray(points)),
        expected,
        rtol=TOLERANCE["float64"],
        atol=1e-15 * expected.max(),
    )


def test_float32(rng):
    sample, points = rng.normal(size=5000).astype(np.float32), np.float32(np.linspace(-3, 3, 100))
    found = kis.gaussian_density(jnp.asarray(sample), jnp.asarray(points))
    np.testing.assert_allclose(found, gaussian_kde(sample)(points), rtol=TOLERANCE["float32"])


@pytest.mark.usefixtures("x64")
def test_where_leaves_values_out(rng):
    sample, points = rng.normal(size=(60, 60)), np.linspace(-3, 3, 50)
    where = ~np.eye(60, dtype=bool)
    found = kis.gaussian_density(jnp.asarray(sample), jnp.asarray(points), where)
    np.testing.assert_allclose(found, gaussian_kde(sample[where])(points), rtol=1e-10)


@pytest.mark.usefixtures("x64")
def test_transformations(rng):
    samples, points = jnp.asarray(rng.normal(size=(8, 300))), jnp.linspace(-2.0, 2.0, 40)
    each = jnp.stack([kis.gaussian_density(sample, points) for sample in samples])
    batched = jax.jit(jax.vmap(lambda s: kis.gaussian_density(s, points)))(samples)
    np.testing.assert_allclose(batched, each, rtol=1e-12)
    mesh = jax.make_mesh((8,), ("layer",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = PartitionSpec("layer")
    sharded = jax.shard_map(
        lambda s: kis.gaussian_density(s[0], points)[None], mesh=mesh, in_specs=spec, out_specs=spec
    )
    np.testing.assert_allclose(jax.jit(sharded)(samples), each, rtol=1e-12)

    def at_half(sample):
        return kis.gaussian_density(sample, jnp.array([0.5]))[0]

    gradient, step = jax.grad(at_half)(samples[0]), 1e-6
    for i in (0, 7):
        moved = at_half(samples[0].at[i].add(step)) - at_half(samples[0].at[i].add(-step))
        np.testing.assert_allclose(gradient[i], moved / (2 * step), rtol=1e-5, atol=1e-9)


def test_never_holds_all_kernels_at_all_points():
    sample = jax.ShapeDtypeStruct((20_000,), jnp.float32)
    points = jax.ShapeDtypeStruct((512,), jnp.float32)
    for function in (
        kis.gaussian_density,
        jax.grad(lambda s, p: kis.gaussian_density(s, p).sum()),
    ):
        text = jax.jit(function).lower(sample, points).compile().as_text()
        shapes = re.findall(r"\w\d+\[([\d,]+)\]", text)
        assert max(np.prod([int(i) for i in shape.split(",")]) for shape in shapes) < 20_000 * 50


@pytest.mark.parametrize("sample", [[], [1.0], [2.0, 2.0, 2.0]])
def test_without_spread_there_is_no_density(sample):
    assert jnp.isnan(kis.gaussian_density(jnp.asarray(sample, jnp.float32), jnp.zeros(3))).all()


def test_dtypes_must_agree():
    with pytest.raises(ValueError, match="sample, points: expected floats of one dtype"):
        kis.gaussian_density(jnp.arange(3), jnp.zeros(3))
