import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kis_jax as kis
from tests import references

N, D, M = 8, 12, 4
CLOSED = {"sequential": kis.edit_sequential, "constrained": kis.edit_constrained}


@pytest.fixture(params=["float64", "float32"])
def dtype(request):
    with jax.enable_x64(request.param == "float64"):
        yield request.param


def case(rng, dtype, n=N):
    c = references.spd(rng, D, 2.0)
    arrays = [jnp.asarray(rng.normal(size=shape), dtype) for shape in ((D, M), (n, D), (n, M))]
    return kis.whitener(jnp.asarray(c, dtype)), *arrays


def kernel_of(editor):
    return editor.edit.apply(editor.kernel)


def assert_same_state(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.parametrize("rule", CLOSED)
@pytest.mark.parametrize("blocks", [[1] * N, [N], [3, 1, 4]])
def test_equals_the_closed_form_however_edits_come_in(rng, dtype, rule, blocks):
    whitener, kernel, keys, values = case(rng, dtype)
    editor = kis.Editor.init(kernel, whitener, 11, rule=rule)
    whole = CLOSED[rule](kernel, keys, values, whitener)
    start = 0
    for size in blocks:
        editor, added = editor.add(keys[start : start + size], values[start : start + size])
        assert added.accepted.all() and added.accepted.shape == (size,)
        start += size
        expected = whole[:start]
        close = dict(rtol=0, atol=10 * references.TOLERANCE[dtype])
        np.testing.assert_allclose(kernel_of(editor), expected.apply(kernel), **close)
        np.testing.assert_allclose(editor.edit.residuals[:start], expected.residuals, **close)
        np.testing.assert_allclose(
            editor.edit.initial_residuals[:start], expected.initial_residuals, **close
        )
        np.testing.assert_allclose(editor.edit.directions[:start], expected.directions, **close)


@pytest.mark.parametrize("rule", CLOSED)
def test_runs_in_a_scan_traced_once(rng, rule):
    whitener, kernel, keys, values = case(rng, "float32")
    traces = 0

    @jax.jit
    def all_at_once(editor, keys, values):
        def step(editor, edit):
            nonlocal traces
            traces += 1
            return editor.add(*edit)

        return jax.lax.scan(step, editor, (keys, values))

    editor = kis.Editor.init(kernel, whitener, N, rule=rule)
    for _ in range(2):
        final, added = all_at_once(editor, keys, values)
    assert traces == 1 and added.accepted.all() and added.accepted.shape == (N,)
    expected = CLOSED[rule](kernel, keys, values, whitener).apply(kernel)
    np.testing.assert_allclose(kernel_of(final), expected, atol=2e-3)


@settings(max_examples=15, deadline=None)
@given(st.sampled_from(sorted(CLOSED)), st.integers(0, 3), st.integers(1, 3), st.integers(0, 2**16))
def test_undo_restores_the_state_bit_for_bit(rule, before, steps, seed):
    whitener, kernel, keys, values = case(np.random.default_rng(seed), "float32")
    editor = kis.Editor.init(kernel, whitener, N, rule=rule)
    for key, value in zip(keys[:before], values[:before], strict=True):
        editor, _ = editor.add(key, value)
    later = editor
    for key, value in zip(keys[3 : 3 + steps], values[3 : 3 + steps], strict=True):
        later, _ = later.add(key, value)
    assert int(later.count) == before + steps
    assert_same_state(later.undo(steps), editor)
    assert_same_state(later.undo(99), kis.Editor.init(kernel, whitener, N, rule=rule))


def test_constrained_keeps_all_earlier_edits_exact_to_capacity(rng, dtype):
    """As many edits as dimensions, some of them nearly alike."""
    whitener, kernel, keys, values = case(rng, dtype, n=D)
    keys = keys.at[5].set(keys[1] + 0.1 * keys[5])
    editor = kis.Editor.init(kernel, whitener, D, rule="constrained")
    for start in (0, 4, 8):
        editor, added = editor.add(keys[start : start + 4], values[start : start + 4])
        assert added.accepted.all()
    missed = np.asarray(keys @ kernel_of(editor) - values)
    scale = float(jnp.abs(editor.edit.directions).max() * jnp.abs(editor.residuals).max())
    assert np.abs(missed).max() < references.TOLERANCE[dtype] * max(1, scale)


def test_a_near_duplicate_is_reported_and_not_divided_by(rng, dtype):
    whitener, kernel, keys, values = case(rng, dtype)
    keys = keys.at[4].set(1.5 * keys[2])
    for blocks in ([[0, 1, 2], [3, 4], [5, 6, 7]], [list(range(N))]):
        editor = kis.Editor.init(kernel, whitener, N, rule="constrained")
        found = []
        for block in blocks:
            rows = np.array(block)
            editor, added = editor.add(keys[rows], values[rows])
            found.append(added)
        accepted, overlap, nearest = (np.concatenate(x) for x in zip(*found, strict=True))
        assert accepted.tolist() == [i != 4 for i in range(N)]
        assert overlap[4] > 1 - 1e-3 and nearest[4] == 2
        kept = np.array([0, 1, 2, 3, 5, 6, 7])
        expected = kis.edit_constrained(kernel, keys[kept], values[kept], whitener)
        close = dict(rtol=0, atol=10 * references.TOLERANCE[dtype])
        np.testing.assert_allclose(kernel_of(editor), expected.apply(kernel), **close)
    editor = kis.Editor.init(kernel, whitener, N)
    editor, added = editor.add(keys, values)
    assert added.accepted.all() and added.nearest[4] == 2
    np.testing.assert_allclose(added.overlap[4], 1, rtol=1e-5)
    assert added.overlap[0] == 0 and added.nearest[0] == -1


def test_overlap_and_nearest_are_by_cosines(rng, dtype):
    whitener, kernel, keys, values = case(rng, dtype)
    cosines = np.abs(kis.cosine_similarity(keys, whitener))
    _, added = kis.Editor.init(kernel, whitener, N).add(keys, values)
    for j in range(1, N):
        np.testing.assert_allclose(added.overlap[j], cosines[:j, j].max() ** 2, rtol=1e-4)
        assert int(added.nearest[j]) == cosines[:j, j].argmax()


def test_a_duplicate_of_a_key_with_little_of_its_own_is_told_from_its_neighbour(dtype):
    """By its own part alone, the third key would be taken for the nearest of the fourth."""
    whitener, kernel = kis.whitener(jnp.eye(4, dtype=dtype)), jnp.zeros((4, 1), dtype)
    keys = jnp.asarray([[1, 0, 0, 0], [1, 0.1, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0]], dtype)
    editor = kis.Editor.init(kernel, whitener, 4, rule="constrained")
    for key, nearest, accepted in zip(keys, (-1, 0, 1, 2), (True, True, True, False), strict=True):
        editor, added = editor.add(key, jnp.ones(1, dtype))
        assert int(added.nearest) == nearest and bool(added.accepted) == accepted


def test_the_state_can_be_donated_and_feeds_itself_without_another_trace(rng):
    whitener, kernel, keys, values = case(rng, "float32")
    step = jax.jit(lambda editor, key, value: editor.add(key, value)[0], donate_argnums=0)
    given = jax.tree.map(jnp.copy, (kernel, whitener))
    editor = kis.Editor.init(*given, N, rule="constrained")
    for key, value in zip(keys, values, strict=True):
        editor = step(editor, key, value)
    assert step._cache_size() == 1
    expected = kis.edit_constrained(kernel, keys, values, whitener).apply(kernel)
    np.testing.assert_allclose(kernel_of(editor), expected, atol=2e-3)


@pytest.mark.parametrize("rule", CLOSED)
def test_unsound_edits_change_nothing(rng, rule):
    whitener, kernel, keys, values = case(rng, "float32")
    keys, values = keys.at[1].set(0).at[2, 3].set(jnp.nan), values.at[3, 0].set(jnp.inf)
    editor, added = kis.Editor.init(kernel, whitener, N, rule=rule).add(keys, values)
    assert added.accepted.tolist() == [True, False, False, False] + [True] * 4
    kept = np.array([0, 4, 5, 6, 7])
    expected = CLOSED[rule](kernel, keys[kept], values[kept], whitener).apply(kernel)
    np.testing.assert_allclose(kernel_of(editor), expected, atol=2e-3)


def test_a_full_ledger(rng):
    whitener, kernel, keys, values = case(rng, "float32")
    editor, _ = kis.Editor.init(kernel, whitener, 5).add(keys[:4], values[:4])
    with pytest.raises(ValueError, match="keys: expected at most 1, the rows still free, found 2"):
        editor.add(keys[4:6], values[4:6])
    editor, added = jax.jit(lambda e, k, v: e.add(k, v))(editor, keys[4:6], values[4:6])
    assert added.accepted.tolist() == [True, False] and int(editor.count) == 5
    expected = kis.edit_sequential(kernel, keys[:5], values[:5], whitener).apply(kernel)
    np.testing.assert_allclose(kernel_of(editor), expected, atol=1e-4)


def test_bad_arguments_are_named(rng):
    whitener, kernel, keys, values = case(rng, "float32")
    with pytest.raises(ValueError, match="kernel: expected shape"):
        kis.Editor.init(kernel.T, whitener, 4)
    with pytest.raises(ValueError, match="capacity: expected"):
        kis.Editor.init(kernel, whitener, 0)
    with pytest.raises(ValueError, match="rule: expected"):
        kis.Editor.init(kernel, whitener, 4, rule="batch")
    editor = kis.Editor.init(kernel, whitener, 4)
    with pytest.raises(ValueError, match="steps: expected the number of edits"):
        editor.undo(-1)
    with pytest.raises(ValueError, match="keys: expected shape"):
        editor.add(values[0], values[0])
    with pytest.raises(ValueError, match="values: expected shape"):
        editor.add(keys[:2], values[:3])
