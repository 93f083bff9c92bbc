"""What the core computes on meshes of eight simulated devices, against one device or NumPy."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from kis_jax.core import ring
from kis_jax.core.bands import band, band_width, rows_of_band
from kis_jax.core.blocked import blocked_whitener
from kis_jax.core.conjugate_gradients import solve_iteratively
from kis_jax.core.mesh import DATA, MODEL, make_mesh
from kis_jax.core.summary import summarize
from kis_jax.core.superposition import superposition
from kis_jax.core.whitening import whitener
from tests import references

MODELS = [1, 2, 8]  # meshes 8x1, 4x2, 1x8
COLLECTIVES = r" (all-reduce|all-gather|reduce-scatter|collective-permute|all-to-all)(?:-start)?\("


def collectives(function, *arguments, **options):
    """Which collectives a compiled program has."""
    text = function.lower(*arguments, **options).compile().as_text()
    return set(re.findall(COLLECTIVES, text))


@pytest.mark.parametrize("model", [1, 2, 4, 8])
def test_rows_from_bands_are_the_second_moment(rng, model):
    mesh, d = make_mesh(model=model), 24
    keys = rng.normal(size=(8, 5, d)).astype(np.float32)
    where = rng.random((8, 5)) < 0.7
    keys[~where] = np.nan  # padding is never read as a number

    def rows(keys, where):
        mine = band(keys, where, MODEL)
        assert mine.shape == (d // model, band_width(d, model))
        return rows_of_band(jax.lax.psum(mine, DATA), MODEL)

    specs = PartitionSpec(DATA, None, MODEL), PartitionSpec(DATA)
    spread = jax.shard_map(rows, mesh=mesh, in_specs=specs, out_specs=PartitionSpec(MODEL))
    found = jax.jit(spread)(keys, where)
    counted = keys[where].astype(np.float64)
    np.testing.assert_allclose(
        found, references.second_moment(counted) * len(counted), rtol=1e-5, atol=1e-5
    )


@pytest.fixture(scope="module")
def facts():
    rng = np.random.default_rng(1)
    keys = jnp.asarray(rng.normal(size=(83, 32)) + rng.normal(size=32), jnp.float32)
    return keys, whitener(jnp.asarray(references.spd(rng, 32), jnp.float32))


@pytest.mark.parametrize("model", MODELS)
def test_superposition_is_that_of_one_device(facts, model):
    mesh = make_mesh(model=model)
    found = superposition(*facts, mesh=mesh)
    np.testing.assert_allclose(found, superposition(*facts), rtol=1e-5, atol=1e-5)
    white = ring.whitened_rows(*facts, mesh)
    rows = ring.ring_superposition(white, extended=False, mesh=mesh)
    assert {part.data.shape for part in rows.addressable_shards} == {(11, 88)}
    program = collectives(ring.ring_superposition, white, extended=False, mesh=mesh)
    assert program == {"collective-permute"}, "facts go around, and are gathered nowhere"


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("tile", [4, 1024])
def test_a_summary_is_that_of_one_device(facts, model, tile):
    groups = jnp.arange(83) // 2
    options = {"bins": 11, "top": 20, "groups": groups}
    found = summarize(*facts, tile=tile, mesh=make_mesh(model=model), **options)
    one = summarize(*facts, **options)
    np.testing.assert_array_equal(found.pairs, one.pairs)
    np.testing.assert_allclose(found.values, one.values, rtol=1e-5)
    np.testing.assert_array_equal(found.moments.count, 83 * 82)
    for name in ("mean", "variance", "skewness", "kurtosis"):
        one_of_them = getattr(one.moments, name)
        np.testing.assert_allclose(getattr(found.moments, name), one_of_them, rtol=1e-5, atol=1e-6)
    assert int(jnp.abs(found.histogram - one.histogram).sum()) <= 2, "but for those at an edge"
    assert int(found.outside + found.histogram.sum()) == 83 * 82


def test_a_summary_needs_no_device_to_hold_all_facts(facts):
    mesh = make_mesh(model=2)
    white = ring.whitened_rows(*facts, mesh, multiple=16)
    options = {"num_facts": 83, "side": 16, "top": 5, "equal": True, "mesh": mesh}
    arguments = white, jnp.linspace(-1, 1, 12), jnp.arange(len(white))
    text = ring.ring_tiles.lower(*arguments, **options).compile().as_text()
    gathered = re.findall(r"f32\[([\d,]*)\]\S* all-gather", text)
    sizes = [np.prod([int(n) for n in shape.split(",") if n]) for shape in gathered]
    assert max(sizes) <= 8 * 5, "only what each has found is gathered"
    assert f"f32[{len(white)},32]" not in text


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("d", [8, 96])
def test_a_factor_on_all_devices_solves_as_numpy(rng, model, d):
    mesh = make_mesh(model=model)
    c = references.spd(rng, d, log10_condition=6)
    keys = rng.normal(size=(5, d))
    made = blocked_whitener(c, mesh, ridge=1e-7)
    assert {part.data.shape for part in made.factor.addressable_shards} == {(d // 8, d)}
    exact = np.linalg.solve(c + 1e-7 * np.eye(d), keys.T).T
    np.testing.assert_allclose(made.solve(keys), exact, rtol=1e-6, atol=1e-6 * np.abs(exact).max())
    p = references.superposition(keys, c, ridge=1e-7)
    np.testing.assert_allclose(superposition(jnp.asarray(keys), made), p, rtol=1e-6, atol=1e-6)
    dealt = superposition(jnp.asarray(keys), made, mesh=mesh)
    np.testing.assert_allclose(dealt, p, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.eye(8) - 2 * np.diag([0, 0, 1, 0, 0, 0, 0, 0]), "positive definite"),
        (np.eye(9), "multiple of the 8 devices, found"),
        (np.ones((8, 4)), "shape"),
    ],
)
def test_what_cannot_be_factored_is_refused(matrix, message):
    with pytest.raises(ValueError, match=message):
        blocked_whitener(jnp.asarray(matrix, jnp.float32), make_mesh())


@pytest.mark.usefixtures("x64")
def test_a_matrix_that_lies_on_all_devices_is_solved_iteratively(rng):
    """Its rows never leave their devices."""
    mesh, d = make_mesh(model=8), 96
    c = references.spd(rng, d, log10_condition=5)
    keys = rng.normal(size=(5, d))
    rows = jax.device_put(c, NamedSharding(mesh, PartitionSpec((DATA, MODEL))))
    solve = jax.jit(
        lambda c, keys: (
            solve_iteratively(lambda x: x @ c, keys, jnp.diagonal(c), tolerance=1e-12).rows
        )
    )
    exact = np.linalg.solve(c, keys.T).T
    np.testing.assert_allclose(solve(rows, keys), exact, rtol=1e-6, atol=1e-6 * np.abs(exact).max())
    text = solve.lower(rows, keys).compile().as_text()
    assert not re.search(rf"f64\[{d},{d}\]", text)


def test_others_and_a_mesh_are_refused(facts):
    with pytest.raises(ValueError, match="leave out mesh"):
        superposition(*facts, facts[0], mesh=make_mesh())
