"""What the core computes on meshes of eight simulated devices, against one device or NumPy."""

import dataclasses
import inspect
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from kis_jax.core.arrays import ring
from kis_jax.core.arrays.bands import band, band_width, rows_of_band
from kis_jax.core.arrays.conjugate_gradients import solve_iteratively
from kis_jax.core.geometry.blocked import blocked_whitener
from kis_jax.core.geometry.second_moment import SecondMoment
from kis_jax.core.geometry.summary import summarize
from kis_jax.core.geometry.superposition import (
    angles,
    cosine_similarity,
    gram,
    off_diagonal_moments,
    superposition,
)
from kis_jax.core.geometry.whitening import whitener
from kis_jax.core.statistics.moments import moments
from kis_jax.models.sharding import DATA, MODEL, make_mesh
from tests import references

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


KINDS = [AxisType.Auto, AxisType.Explicit]


def mesh_of_mine(kind=AxisType.Auto):
    """Anybody's mesh, of axes that the library has never heard of."""
    return jax.make_mesh((2, 4), ("x", "y"), axis_types=(kind, kind))


def dealt(array, mesh, *spec):
    return jax.device_put(array, NamedSharding(mesh, PartitionSpec(*spec)))


def filled(array, size=88):
    """Rows of NaN up to a number that eight devices divide, and which rows there are."""
    missing = size - len(array)
    where = jnp.arange(size) < len(array)
    return jnp.pad(array, ((0, missing), (0, 0)), constant_values=jnp.nan), where


ROWS = [("x",), (("x", "y"),), (("y", "x"),), ("x", "y")]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("spec", ROWS, ids=str)
def test_superposition_follows_the_keys(facts, kind, spec):
    keys, whitener = facts[0][:80], facts[1]
    given = dealt(keys, mesh_of_mine(kind), *spec)
    found = superposition(given, whitener)
    np.testing.assert_allclose(found, superposition(keys, whitener), rtol=1e-5, atol=1e-5)
    rows = 80 // (2 if spec[0] == "x" else 8)
    assert {part.data.shape for part in found.addressable_shards} == {(rows, 80)}
    if kind == AxisType.Explicit:
        compiled = jax.jit(superposition)(given, whitener)
        np.testing.assert_allclose(compiled, found, rtol=1e-5, atol=1e-5)
        assert compiled.sharding == found.sharding


def test_facts_go_around_and_are_gathered_nowhere(facts):
    keys = dealt(facts[0][:80], mesh_of_mine(AxisType.Explicit), ("y", "x"))
    assert collectives(jax.jit(superposition), keys, facts[1]) == {"collective-permute"}


@pytest.mark.parametrize("method", ["refined", "eigh"])
def test_superposition_of_dealt_keys_by_every_method(rng, method):
    keys, c = rng.normal(size=(16, 8)), references.spd(rng, 8)
    made = whitener(jnp.asarray(c, jnp.float32), method=method)
    for kind in KINDS:
        given = dealt(jnp.asarray(keys, jnp.float32), mesh_of_mine(kind), "x")
        found = superposition(given, made)
        np.testing.assert_allclose(found, references.superposition(keys, c), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_other_keys_may_lie_anywhere(facts, kind):
    keys, whitener = facts
    mesh = mesh_of_mine(kind)
    for edited, touched in ((("x",), ()), ((), ("x",)), (("x",), ("x",)), (("x",), ("y",))):
        found = superposition(
            dealt(keys[:16], mesh, *edited), whitener, dealt(keys[16:48], mesh, *touched)
        )
        exact = superposition(keys[:16], whitener, keys[16:48])
        np.testing.assert_allclose(found, exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_gram_cosines_and_moments_of_dealt_keys(facts, kind):
    keys, whitener = facts[0][:16], facts[1]
    given = dealt(keys, mesh_of_mine(kind), "x")
    for function in (gram, cosine_similarity, lambda k, w: angles(k, w) / 180):
        np.testing.assert_allclose(
            function(given, whitener), function(keys, whitener), rtol=1e-4, atol=1e-3
        )
    one = off_diagonal_moments(superposition(keys, whitener))
    found = off_diagonal_moments(superposition(given, whitener))
    np.testing.assert_allclose(found.kurtosis, one.kurtosis, rtol=1e-4)


def equal(found, one, n=83):
    np.testing.assert_array_equal(found.pairs, one.pairs)
    np.testing.assert_allclose(found.values, one.values, rtol=1e-5)
    np.testing.assert_array_equal(found.moments.count, n * (n - 1))
    for name in ("mean", "variance", "skewness", "kurtosis"):
        one_of_them = getattr(one.moments, name)
        np.testing.assert_allclose(getattr(found.moments, name), one_of_them, rtol=1e-5, atol=1e-6)
    assert int(jnp.abs(found.histogram - one.histogram).sum()) <= 2, "but for those at an edge"
    assert int(found.outside + found.histogram.sum()) == n * (n - 1)


@pytest.mark.parametrize(
    ("kind", "spec", "tile"),
    [
        (AxisType.Auto, ("x",), 4),
        (AxisType.Auto, (("x", "y"),), 1024),
        (AxisType.Explicit, (("y", "x"),), 4),
    ],
    ids=str,
)
def test_a_summary_is_that_of_one_device(facts, kind, spec, tile):
    options = {"bins": 11, "top": 20}
    groups = jnp.arange(88) // 2
    keys, where = filled(facts[0])
    mesh = mesh_of_mine(kind)
    found = summarize(
        dealt(keys, mesh, *spec), facts[1], tile=tile, groups=groups, where=where, **options
    )
    equal(found, summarize(*facts, groups=groups[:83], **options))


@pytest.mark.parametrize("tile", [4, 16, 1024])
def test_facts_that_do_not_count_are_not_read(facts, tile):
    there = np.random.default_rng(2).permutation(100) < 83
    keys = jnp.full((100, 32), jnp.nan).at[np.flatnonzero(there)].set(facts[0])
    found = summarize(keys, facts[1], tile=tile, bins=11, top=20, where=jnp.asarray(there))
    one = summarize(*facts, bins=11, top=20)
    equal(found, dataclasses.replace(one, pairs=np.flatnonzero(there)[one.pairs]))


def test_within_shard_map_an_axis_name_says_where_facts_lie(facts):
    """With the types of `check_vma`, which know that the summary is the same everywhere."""
    keys, where = filled(facts[0])
    mesh, rows, same = mesh_of_mine(), PartitionSpec(("y", "x")), PartitionSpec()
    keys = jnp.where(where[:, None], keys, 1)

    def both(keys, where):
        axes = ("y", "x")
        summary = summarize(keys, facts[1], bins=11, top=20, where=where, axis_name=axes)
        return superposition(keys, facts[1], axis_name=axes), summary

    over = jax.shard_map(both, mesh=mesh, in_specs=(rows, rows), out_specs=(rows, same))
    p, summary = jax.jit(over)(keys, where)
    np.testing.assert_allclose(p[:83, :83], superposition(*facts), rtol=1e-5, atol=1e-5)
    equal(summary, summarize(*facts, bins=11, top=20))


def test_a_summary_needs_no_device_to_hold_all_facts(facts):
    keys = dealt(filled(facts[0])[0], mesh_of_mine(AxisType.Explicit), ("x", "y"))
    where = jnp.arange(88) < 83
    function = jax.jit(lambda k, w: summarize(k, facts[1], tile=16, bins=11, top=5, where=w))
    text = function.lower(keys, where).compile().as_text()
    assert "collective-permute" in text and "all-gather" not in text
    summed = re.findall(r"f32\[([\d,]*)\]\S* all-reduce", text)
    sizes = [np.prod([int(n) for n in shape.split(",") if n]) for shape in summed]
    assert max(sizes) <= 8 * 5, "only what each has found, and sums of facts, are for all"
    assert "f32[88,32]" not in text


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("kind", "rows", "specs"),
    [
        (AxisType.Auto, "y", [(), ("x",), (("x", "y"),)]),
        (AxisType.Explicit, "y", [("x",)]),
        (AxisType.Auto, ("y", "x"), [("x",)]),
    ],
    ids=str,
)
def test_a_factor_on_several_devices_solves_as_numpy(rng, kind, rows, specs):
    mesh, d = mesh_of_mine(kind), 96
    c = references.spd(rng, d, log10_condition=6)
    keys = rng.normal(size=(16, d))
    made = blocked_whitener(dealt(c, mesh, rows), ridge=1e-7)
    held = d // (4 if rows == "y" else 8)
    assert {part.data.shape for part in made.factor.addressable_shards} == {(held, d)}
    exact = np.linalg.solve(c + 1e-7 * np.eye(d), keys.T).T
    p = references.superposition(keys, c, ridge=1e-7)
    bound = {"rtol": 1e-6, "atol": 1e-6 * np.abs(exact).max()}
    for spec in specs:
        given = dealt(keys, mesh, *spec)
        np.testing.assert_allclose(made.solve(given), exact, **bound)
        np.testing.assert_allclose(made.directions(made.coordinates(given)), exact, **bound)
        np.testing.assert_allclose(superposition(given, made), p, rtol=1e-6, atol=1e-6)
    whole = whitener(jnp.asarray(c), ridge=1e-7)
    np.testing.assert_allclose(made.condition, whole.condition, rtol=1e-6)
    assert int(made.rank) == made.width == d


@pytest.mark.usefixtures("x64")
def test_facts_over_one_axis_and_c_over_the_other(rng):
    """Each group of devices whitens its own facts: nothing of them passes to the others."""
    mesh = mesh_of_mine()
    keys, c = rng.normal(size=(16, 24)), references.spd(rng, 24)
    made = blocked_whitener(dealt(c, mesh, "y"))
    white = made.whiten(dealt(keys, mesh, "x"))
    assert {part.data.shape for part in white.addressable_shards} == {(8, 24)}
    summary = summarize(dealt(keys, mesh, "x"), made, bins=11)
    equal(summary, summarize(jnp.asarray(keys), whitener(jnp.asarray(c)), bins=11), n=16)


TOKENS = [("x",), ("x", None, "y"), (("y", "x"),), (None, None, ("y", "x"))]


@pytest.mark.parametrize(
    ("kind", "spec"),
    [
        *((AxisType.Auto, spec) for spec in TOKENS[1:]),
        *((AxisType.Explicit, s) for s in TOKENS[:3]),
    ],
    ids=str,
)
def test_second_moments_and_moments_of_dealt_tokens(rng, kind, spec):
    keys = jnp.asarray(rng.normal(size=(16, 4, 16)), jnp.float32)
    where = jnp.asarray(rng.random((16, 4)) < 0.7)
    mesh = mesh_of_mine(kind)
    given = dealt(keys, mesh, *spec)
    one = SecondMoment.zeros(16).update(keys, where)
    found = SecondMoment.zeros(16).update(given, where)
    np.testing.assert_allclose(found.total, one.total, rtol=1e-5, atol=1e-5)
    features = spec[2] if len(spec) == 3 else None
    assert found.total.sharding.is_equivalent_to(
        NamedSharding(mesh, PartitionSpec(features)), ndim=2
    )
    rows = dataclasses.replace(SecondMoment.zeros(16), total=dealt(jnp.zeros((16, 16)), mesh, "y"))
    rows = rows.update(given, where)
    np.testing.assert_allclose(rows.total, one.total, rtol=1e-5, atol=1e-5)
    assert {part.data.shape for part in rows.total.addressable_shards} == {(4, 16)}
    np.testing.assert_allclose(
        superposition(keys[:, 0], blocked_whitener(rows)),
        superposition(keys[:, 0], whitener(one)),
        rtol=1e-4,
        atol=1e-4,
    )
    for options in ({}, {"axis": 1}, {"axis": 0, "where": where[..., None]}):
        ours, theirs = moments(given, **options), moments(keys, **options)
        np.testing.assert_array_equal(ours.count, theirs.count)
        for name in ("mean", "m2", "m3", "m4"):
            np.testing.assert_allclose(
                getattr(ours, name), getattr(theirs, name), rtol=1e-4, atol=1e-4
            )


@pytest.mark.parametrize("kind", KINDS)
def test_a_plain_whitener_takes_a_c_that_is_dealt_out(rng, kind):
    c = jnp.asarray(references.spd(rng, 8), jnp.float32)
    found = whitener(dealt(c, mesh_of_mine(kind), "y"))
    np.testing.assert_allclose(found.solve(c[:3]), whitener(c).solve(c[:3]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.eye(8) - 2 * np.diag([0, 0, 1, 0, 0, 0, 0, 0]), "positive definite"),
        (np.ones((8, 4)), "shape"),
    ],
)
def test_what_cannot_be_factored_is_refused(matrix, message):
    with pytest.raises(ValueError, match=message):
        blocked_whitener(dealt(jnp.asarray(matrix, jnp.float32), mesh_of_mine(), ("x", "y")))


def test_a_blocked_whitener_needs_rows_on_devices():
    c, mesh = jnp.eye(8), mesh_of_mine()
    for given in (c, dealt(c, mesh, None, "y"), dealt(c, mesh, "x", "y")):
        with pytest.raises(ValueError, match="second_moment: expected its rows.*device_put"):
            blocked_whitener(given)
    with pytest.raises(ValueError, match="outside jit"):
        jax.jit(blocked_whitener)(dealt(c, mesh, "y"))
    other = jax.make_mesh((8,), ("z",), axis_types=(AxisType.Auto,))
    with pytest.raises(ValueError, match="keys: expected rows over axes of the whitener's mesh"):
        blocked_whitener(dealt(c, mesh, "y")).whiten(dealt(c, other, "z"))


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


def test_superposition_imports_nothing_of_meshes_that_it_may_not_need():
    """Nor does it name axes: what is dealt out is read off the arrays."""
    code = "import sys, kis_jax.core.geometry.superposition\nprint(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {f"kis_jax.core.{name}" for name in ("ring", "tiles", "blocked")} & set(
        found.stdout.split()
    )
    for path in Path(ring.__file__).parent.glob("*.py"):
        assert not re.search(r"\b(DATA|MODEL)\b|make_mesh\(.*data", path.read_text()), path
    for function in (superposition, summarize, blocked_whitener):
        assert "mesh" not in inspect.signature(function).parameters
