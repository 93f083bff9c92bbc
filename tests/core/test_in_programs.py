"""The core in other people's programs: what they save, compare, grow, thread and get wrong."""

import dataclasses
import inspect
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import kis_jax as kis
import kis_jax.core as kc
from tests import references

D, N, M = 8, 6, 3


@pytest.fixture
def case(rng):
    """A kernel, keys, values and C."""
    drawn = [rng.normal(size=size) for size in ((D, M), (N, D), (N, M))]
    return [jnp.asarray(x, jnp.float32) for x in (*drawn, references.spd(rng, D, 1.0))]


def test_a_batch_of_edits_has_no_prefix_by_accident(case):
    kernel, keys, values, c = case
    layers = [jnp.stack([x, x]) for x in (keys, values)]
    whitener = kis.whitener(c)
    edits = jax.vmap(lambda k, v: kis.edit_sequential(kernel, k, v, whitener))(*layers)
    assert len(edits) == N
    with pytest.raises(ValueError, match=r"of several use edit.first\(t\)"):
        edits[:3]
    alone = kis.edit_sequential(kernel, keys[:3], values[:3], whitener)
    np.testing.assert_allclose(
        jax.vmap(lambda e: e.delta)(edits.first(3))[0], alone.delta, atol=1e-5
    )


def test_the_rule_is_part_of_what_is_saved(case, tmp_path):
    import orbax.checkpoint as ocp

    kernel, keys, values, c = case
    whitener = kis.whitener(c)
    constrained = kis.edit_constrained(kernel, keys, values, whitener)
    sequential = kis.edit_sequential(kernel, keys, values, whitener)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "edit", constrained)
        checkpointer.wait_until_finished()
        read = checkpointer.restore(tmp_path / "edit", constrained)
        assert read.rule == "constrained"
        np.testing.assert_array_equal(read.delta, constrained.delta)
        with pytest.raises(ValueError, match="sequential.directions"):
            checkpointer.restore(tmp_path / "edit", sequential)


@pytest.mark.parametrize("space", [True, False], ids=["whitened", "plain"])
def test_gradients_of_angles(case, space):
    _, keys, _, c = case
    keys = keys.at[3].set(keys[2])
    whitener = kis.whitener(c) if space else None
    assert (jnp.diagonal(kis.angles(keys, whitener)) == 0).all()
    weights = jnp.arange(N * N, dtype=jnp.float32).reshape(N, N)
    gradient = jax.grad(lambda k: jnp.sum(weights * kis.angles(k, whitener)))(keys)
    assert jnp.isfinite(gradient).all()
    apart = jax.grad(lambda k: kis.angles(k, whitener)[0, 1])(keys)
    step = 1e-2 * jnp.ones_like(keys)
    change = (kis.angles(keys + step, whitener) - kis.angles(keys - step, whitener))[0, 1] / 2
    np.testing.assert_allclose(jnp.vdot(apart, step), change, rtol=2e-2)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_one_bad_number_is_not_lost_among_many(case, bad):
    p = kis.superposition(case[1], kis.whitener(case[3])).at[0, 1].set(bad)
    assert all(jnp.isnan(x) for x in kis.bulk(p, D))
    assert jnp.isnan(kis.tail_index(p.ravel(), 5))
    assert jnp.isnan(kis.kurtosis_at_rank(p, D, 9.0))


def test_whole_numbers_are_promoted_and_complex_ones_refused(case):
    whitener = kis.whitener(case[3])
    whole = jnp.array([[50_000, 50_000], [1, 2]], jnp.int32)
    np.testing.assert_array_equal(kis.gram(whole), kis.gram(whole.astype(jnp.float32)))
    for function in (kis.gram, kis.cosine_similarity, kis.angles):
        with pytest.raises(ValueError, match="keys: expected real numbers, found complex64"):
            function(jnp.ones((2, 3), jnp.complex64))
    with pytest.raises(ValueError, match="keys: expected real numbers"):
        kis.superposition(jnp.ones((2, D), jnp.complex64), whitener)


def test_directions_are_not_dropped_in_silence(rng):
    c = jnp.asarray(references.spd(rng, 64, 6.0), jnp.float32)
    with pytest.warns(UserWarning, match=r"whitener: \d+ of 64 directions dropped"):
        found = kis.whitener(c, method="eigh")
    assert 0 < found.rank < 64
    kis.whitener(c, method="eigh", rcond=1e-6)
    with pytest.raises(ValueError) as refused:
        kis.whitener(jnp.diag(jnp.array([1.0, 0.0])) + jnp.ones((2, 2)) * 0)
    text = str(refused.value)
    assert 0 < text.index('method="refined"') < text.index('method="eigh"')


def test_an_editor_is_carried_through_a_scan_where_facts_are_dealt_out(case):
    kernel, keys, values, c = case
    mesh = jax.make_mesh((2,), ("facts",), devices=jax.devices()[:2])
    editor = kis.Editor.init(kernel, kis.whitener(c), 4)

    def scanned(editor, keys, values):
        editor, _ = jax.lax.scan(lambda state, fact: state.add(*fact), editor, (keys, values))
        return editor.edit.delta[None]

    def mine(keys, values):
        return scanned(kis.Editor.init(kernel, kis.whitener(c), 4, axis_name="facts"), keys, values)

    spec = PartitionSpec("facts")
    placed = jax.device_put((keys, values), NamedSharding(mesh, spec))
    run = jax.shard_map(mine, mesh=mesh, in_specs=(spec, spec), out_specs=spec, check_vma=True)
    found = np.asarray(jax.jit(run)(*placed))
    half = N // 2
    for device, part in enumerate((slice(half), slice(half, N))):
        np.testing.assert_allclose(
            found[device], scanned(editor, keys[part], values[part])[0], atol=1e-5
        )

    def without(keys, values):
        return scanned(editor, keys, values)

    run = jax.shard_map(without, mesh=mesh, in_specs=(spec, spec), out_specs=spec, check_vma=True)
    with pytest.raises(TypeError, match="carry"):  # as docs/sharp_bits.md says
        jax.jit(run)(*placed)


def test_a_donated_editor_is_given_away_as_a_whole_and_only_then(case):
    """The caller's kernel and space with it; the library's own functions donate nothing."""
    kernel, keys, values, c = case
    kernel, whitener = jnp.array(kernel), kis.whitener(c)
    editor = kis.Editor.init(kernel, whitener, 8, "constrained")
    kept = jax.tree.map(jnp.copy, editor)
    after, _ = editor.add(keys[:2], values[:2])
    again, _ = after.add(keys[2], values[2])
    for state in (again.undo(), again.drop([2]), again.take([0, 1])):
        np.testing.assert_allclose(state.edit.delta, after.edit.delta, rtol=1e-5, atol=1e-6)
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves((editor, after, again)))

    add = jax.jit(lambda state, k, v: state.add(k, v)[0], donate_argnums=0)
    given = add(editor, keys[:2], values[:2])
    assert kernel.is_deleted() and whitener.factor.is_deleted() and editor.residuals.is_deleted()
    assert not keys.is_deleted() and not values.is_deleted()
    np.testing.assert_array_equal(given.edit.delta, after.edit.delta)
    np.testing.assert_array_equal(add(kept, keys[:2], values[:2]).edit.delta, after.edit.delta)


# Each of these words has one meaning, that of docs/sharp_bits.md, under which all that bear it are:
# statistics of a sample; beyond a threshold; added to a diagonal before a matrix is inverted.
WORDS = {
    "moments": {"moments", "Moments", "Summary.moments", "off_diagonal_moments"},
    "tail": {"tail_index", "Summary.tail_index", "Bulk.tail_fraction"},
    "ridge": {
        "ridge",
        "Ridge",
        "whitener(ridge)",
        "blocked_whitener(ridge)",
        "Precision.whitener(ridge)",
        "edit_null_space(ridge)",
        "make_edits(ridge)",
        "LifelongRequest.ridge",
        "EditSettings.null_ridge",
        "EditSettings.gradient_ridge",
    },
    "requested": {"Edit.requested", "Asked.requested", "Editor.requested"},  # of version 0.1
}


def words_in_public():
    """Names, attributes and parameters of everything public."""
    for name in sorted({*kis.__all__, *kc.__all__}):
        thing = getattr(kis if name in kis.__all__ else kc, name)
        yield name, name
        members = {} if not inspect.isclass(thing) else vars(thing)
        fields = getattr(thing, "__dataclass_fields__", {})
        for member in {*members, *fields}:
            if not member.startswith("_"):
                yield member, f"{name}.{member}"
        functions = {name: thing} if inspect.isroutine(thing) or hasattr(thing, "lower") else {}
        functions |= {f"{name}.{member}": value for member, value in members.items()}
        for path, function in functions.items():
            function = getattr(function, "__func__", function)
            if callable(function) and not path.rpartition(".")[2].startswith("_"):
                for parameter in inspect.signature(function).parameters:
                    yield parameter, f"{path}({parameter})"


def test_a_word_has_one_meaning():
    found = {word: set() for word in WORDS}
    for word, where in words_in_public():
        for part in {word.lower(), *word.lower().split("_")} & set(WORDS):
            if not (part == "moments" and "second" in word):
                found[part].add(where)
    assert found == WORDS


def test_a_residual_of_before_any_edit_has_its_name_and_the_one_of_before(case):
    kernel, keys, values, c = case
    edit = kis.edit_sequential(kernel, keys, values, kis.whitener(c))
    np.testing.assert_allclose(edit.initial_residuals, values - keys @ kernel, atol=1e-5)
    editor, _ = kis.Editor.init(kernel, kis.whitener(c), N).add(keys, values)
    asked = kc.Asked(keys, keys, edit.initial_residuals)
    for holder in (edit, editor, asked):
        assert holder.requested is holder.initial_residuals


def programs(function):
    """How many programs are compiled meanwhile."""
    events = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: events.append(event) if "backend_compile" in event else None
    )
    try:
        function()
    finally:
        jax.monitoring.clear_event_listeners()
    return len(events)


@pytest.mark.parametrize(
    "use",
    [
        lambda kernel, k, v, w: kis.edit_sequential(kernel, k, v, w),
        lambda kernel, k, v, w: kis.edit_batch(kernel, k, v, w, 2.0),
        lambda kernel, k, v, w: kis.superposition(k, w),
        lambda kernel, k, v, w: kis.angles(k),
    ],
    ids=["edit_sequential", "edit_batch", "superposition", "angles"],
)
def test_a_list_of_facts_that_grows_by_one(rng, use):
    width = 128
    keys, values = (rng.normal(size=(100, k)).astype(np.float32) for k in (width, M))
    kernel, whitener = jnp.zeros((width, M)), kis.whitener(jnp.eye(width))
    found = {}

    def grow():
        for n in range(1, 101):
            found[n] = use(kernel, keys[:n], values[:n], whitener)

    assert programs(grow) <= 10
    for n in (3, 64, 99):
        one, other = (jax.tree.leaves(found[size])[0] for size in (n, 100))
        assert one.shape[0] == n
        if one.shape[1] == n:  # of no order: what is asked of the first n is what they are alone
            np.testing.assert_allclose(one, other[:n, :n], atol=1e-4)


def test_numbers_that_are_filled_up_leave_the_constrained_edit_as_it_is(case):
    """Seven facts are computed as ten, of which three are nothing."""
    kernel, keys, values, c = case
    whitener = kis.whitener(c)
    edit = kis.edit_constrained(kernel, keys, values, whitener)
    alone = jax.jit(kis.edit_constrained)(kernel, keys, values, whitener)
    np.testing.assert_allclose(edit.directions, alone.directions, atol=1e-4)
    np.testing.assert_allclose(keys @ edit.apply(kernel), values, atol=1e-3)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda k, c, s: kis.superposition(k, c), "whitener: expected a space .* found ArrayImpl"),
        (lambda k, c, s: kis.superposition(k, s), "whitener: expected a space .* SecondMoment"),
        (lambda k, c, s: kis.summarize(k, c), "whitener: expected a space"),
        (lambda k, c, s: kis.edit_sequential(k.T, k, k, c), "whitener: expected a space"),
        (lambda k, c, s: kis.edit_constrained(k.T, k, k, s), "whitener: expected a space"),
        (lambda k, c, s: kis.edit_batch(k.T, k, k, c, 1.0), "whitener: expected a space"),
        (lambda k, c, s: kis.Editor.init(k.T, c, 3), "space: expected a space"),
        (lambda k, c, s: kis.inverse_residual(c, c), "whitener: expected a space"),
        (lambda k, c, s: kis.whitener(c, ridge=jnp.ones(2)), "ridge: expected one number"),
        (lambda k, c, s: kis.whitener(c, ridge=-1.0), "ridge: expected a number of at least 0"),
        (lambda k, c, s: kis.blocked_whitener(s), "second_moment: expected its rows"),
        (
            lambda k, c, s: kis.edit_constrained(
                k.T, k.at[2].set(jnp.nan), k @ k.T, kis.whitener(c)
            ),
            "found row 2 zero or not finite",
        ),
    ],
)
def test_wrong_arguments_are_named(case, call, says):
    _, keys, _, c = case
    with pytest.raises(ValueError, match=says) as refused:
        call(keys, c, kis.SecondMoment(c, jnp.asarray(1)))
    assert "\n" not in str(refused.value)


def test_lists_are_arrays(case):
    kernel, keys, values, c = case
    whitener = kis.whitener(c)
    expected = kis.edit_sequential(kernel, keys, values, whitener).delta
    found = kis.edit_sequential(kernel.tolist(), keys.tolist(), values.tolist(), whitener).delta
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert kis.superposition(keys.tolist(), whitener).shape == (N, N)


@pytest.mark.parametrize("power", [-66, 80])
def test_the_size_of_keys_is_nothing_to_what_has_no_scale(case, power):
    """Of 1e-20 and 1e24: to the last bit, as the sizes are powers of two."""
    kernel, keys, values, c = case
    whitener, size = kis.whitener(c), jnp.float32(2.0**power)
    for function in (
        lambda k: kis.superposition(k, whitener),
        lambda k: kis.superposition(k, whitener, k[:2]),
        lambda k: kis.cosine_similarity(k, whitener),
        lambda k: kis.angles(k),
        lambda k: kis.summarize(k, whitener, top=2).values,
        lambda k: (
            size * kis.edit_sequential(0 * kernel, k, values, whitener).directions
            if k is not keys
            else kis.edit_sequential(0 * kernel, k, values, whitener).directions
        ),
        lambda k: kis.edit_constrained(0 * kernel, k, values, whitener).residuals,
    ):
        np.testing.assert_array_equal(function(size * keys), function(keys))


def test_one_small_key_among_large_ones(case):
    _, keys, _, c = case
    whitener, tiny = kis.whitener(c), case[1].at[1].multiply(1e-21)
    sizes = jnp.ones(N).at[1].set(1e-21)
    expected = kis.superposition(keys, whitener) * sizes[None] / sizes[:, None]
    np.testing.assert_allclose(kis.superposition(tiny, whitener), expected, rtol=1e-5)


def test_a_key_of_zeros_is_nan_where_it_is_edited(case):
    _, keys, _, c = case
    zero, whitener = case[1].at[1].set(0), kis.whitener(case[3])
    p = kis.superposition(zero, whitener)
    assert jnp.isnan(p[1]).all() and not p[np.arange(N) != 1][:, 1].any()
    for function in (kis.cosine_similarity, kis.angles):
        found = function(zero, whitener)
        assert jnp.isnan(found[1]).all() and jnp.isnan(found[:, 1]).all()
        assert jnp.isfinite(jnp.delete(jnp.delete(found, 1, 0), 1, 1)).all()
    with pytest.raises(ValueError, match="row 1"):
        kis.summarize(zero, whitener)


def test_containers_are_compared_by_identity(case):
    kernel, keys, values, c = case
    edit = kis.edit_sequential(kernel, keys, values, kis.whitener(c))
    assert edit == edit and edit != dataclasses.replace(edit) and len({edit, edit}) == 1
    for name in kc.__all__:
        thing = getattr(kc, name)
        if inspect.isclass(thing) and dataclasses.is_dataclass(thing) and name != "Precision":
            assert thing.__eq__ is object.__eq__, name


def test_names_are_resolved_by_many_threads_at_once():
    code = """
import threading
import kis_jax as kis
wrong, barrier = [], threading.Barrier(16)
def resolve(i):
    barrier.wait()
    for name in kis.__all__[i::16] + kis.__all__:
        try:
            getattr(kis, name)
        except BaseException as error:
            wrong.append(f"{name}: {error!r}")
threads = [threading.Thread(target=resolve, args=(i,)) for i in range(16)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(wrong)
"""
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300
    )
    assert found.stdout == "[]\n", found.stdout + found.stderr
