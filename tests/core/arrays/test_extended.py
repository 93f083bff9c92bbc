import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kis_jax.core.arrays.extended import pair, product, two_sum


def exact(parts):
    return np.asarray(parts.high, np.float64) + np.asarray(parts.low, np.float64)


@pytest.mark.parametrize("k", [1, 3, 300, 2500])
def test_products_have_twice_the_digits_of_float32(rng, k):
    a, b = (rng.normal(size=(n, k)) * 10 ** rng.uniform(-3, 3, k) for n in (40, 30))
    a, b = a.astype(np.float32), b.astype(np.float32)
    expected = a.astype(np.float64) @ b.T.astype(np.float64)
    size = np.abs(a).max(axis=1)[:, None] * np.abs(b).max(axis=1)
    assert (np.abs(exact(product(pair(a), pair(b))) - expected) / size).max() < (k + 16) * 2.0**-48
    if k > 100:  # the plain product is far from that
        plain = jnp.matmul(a, b.T, precision="highest")
        assert (np.abs(plain - expected) / size).max() > k * 2.0**-34


def test_pairs_carry_float64_where_jax_has_none(rng):
    a, b = rng.normal(size=(5, 70)), rng.normal(size=(4, 70))
    assert pair(a).low.dtype == jnp.float32
    np.testing.assert_allclose(exact(pair(a)), a, rtol=2.0**-47)
    np.testing.assert_allclose(exact(product(pair(a), pair(b))), a @ b.T, atol=1e-11)
    with jax.enable_x64(True):
        assert pair(jnp.asarray(a)).high.dtype == jnp.float32
        np.testing.assert_allclose(exact(pair(jnp.asarray(a))), a, rtol=2.0**-47)


def test_operands_made_in_the_same_program_are_rounded_once(rng):
    """Fused into the slicing, the division would round a tie one way here and another there."""
    a = jnp.asarray(rng.normal(size=(1000, 64)), jnp.float32)

    @jax.jit
    def fused(a):
        scaled = a / jnp.sum(a * a, axis=1, keepdims=True)
        return scaled, product(pair(scaled), pair(scaled))

    scaled, found = fused(a)
    scaled = np.asarray(scaled, np.float64)
    size = np.abs(scaled).max(axis=1)
    error = np.abs(exact(found) - scaled @ scaled.T) / np.outer(size, size)
    assert error.max() < 64 * 2.0**-47


def test_two_sum_loses_nothing(rng):
    a, b = (jnp.asarray(rng.normal(size=100) * 10 ** rng.uniform(-5, 5, 100), jnp.float32),) * 2
    b = b[::-1]
    total, rest = jax.jit(two_sum)(a, b)
    together = np.asarray(total, np.float64) + np.asarray(rest, np.float64)
    np.testing.assert_array_equal(together, np.asarray(a, np.float64) + np.asarray(b, np.float64))


def test_gradient_is_that_of_the_product(rng):
    a, b = (jnp.asarray(rng.normal(size=(n, 9)), jnp.float32) for n in (4, 3))
    found = jax.grad(lambda a, b: jnp.sum(product(pair(a), pair(b)).high ** 2), (0, 1))(a, b)
    expected = jax.grad(lambda a, b: jnp.sum((a @ b.T) ** 2), (0, 1))(a, b)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4)


def test_products_of_parts_that_vary_over_a_mesh(rng):
    a, b = (jnp.asarray(rng.normal(size=(4, 9)), jnp.float32) for _ in range(2))
    mesh = jax.make_mesh((2,), ("rows",), devices=jax.devices()[:2])
    spec = jax.sharding.PartitionSpec("rows")
    sharded = jax.shard_map(
        lambda a, b: product(pair(a), pair(b)).high,
        mesh=mesh,
        in_specs=(spec, jax.sharding.PartitionSpec()),
        out_specs=spec,
    )
    given = jax.device_put(a, jax.NamedSharding(mesh, spec))
    expected = product(pair(a), pair(b)).high
    np.testing.assert_array_equal(jax.jit(sharded)(given, b), expected)
