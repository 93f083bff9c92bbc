"""What makes sequences of edits last: filters, shrinking spaces, rising weights; by identities."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kis_jax as kis
from kis_jax.core.editing.filters import Anchor, Protect, norm_anchor, protect, sphere
from kis_jax.core.editing.lasting import anew, shrinking
from kis_jax.core.editing.replay import Asked, foresee, replay
from kis_jax.core.editing.rising import Rising, rising_add

N, OTHERS, D, M = 8, 3, 20, 6
CUTS = st.sampled_from([[1] * N, [N], [3, 5], [2, 2, 4]])
CLOSE = dict(rtol=0, atol=1e-9)
some = settings(max_examples=5, deadline=None)
pytestmark = pytest.mark.usefixtures("x64")


class Case:
    """A layer, facts and keys to be left alone."""

    def __init__(self, seed):
        rng = np.random.default_rng(seed)
        turn = np.linalg.qr(rng.normal(size=(D, D)))[0]
        self.c = turn @ np.diag(np.geomspace(1, 0.05, D)) @ turn.T
        self.kernel, self.everyone = rng.normal(size=(D, M)), rng.normal(size=(N + OTHERS, D))
        self.keys, self.values = self.everyone[:N], rng.normal(size=(N, M))
        self.space = kis.whitener(jnp.asarray(self.c))
        self.asked = Asked(
            self.keys, np.linalg.solve(self.c, self.keys.T).T, self.values - self.keys @ self.kernel
        )

    def edited(self, rule, sizes=(N,), space=None, filters=()):
        space = self.space if space is None else space
        return self.add(kis.Editor.init(self.kernel, space, N, rule, filters=filters), sizes)

    def add(self, editor, sizes):
        start = 0
        for size in sizes:
            here = slice(start, start + size)
            editor, _ = editor.add(jnp.asarray(self.keys[here]), jnp.asarray(self.values[here]))
            start += size
        return editor

    def blocks(self, sizes):
        bounds = np.cumsum([0, *sizes])
        for start, stop in zip(bounds, bounds[1:], strict=False):
            yield self.keys[start:stop], self.values[start:stop]


def off(columns, strength=1.0):
    return np.eye(len(columns)) - strength * columns @ columns.T


@some
@given(seed=st.integers(0, 999), cuts=CUTS, weight=st.floats(0.05, 50.0))
def test_what_is_protected_is_the_remainder_carried_in_full_matrices(seed, cuts, weight):
    case = Case(seed)
    filter_ = protect(jnp.asarray(case.kernel), share=0.4)
    left, right = off(np.asarray(filter_.of_keys)), off(np.asarray(filter_.of_values))
    assert 0 < np.linalg.matrix_rank(np.asarray(filter_.of_values)) < M
    kernel, s, rest = case.kernel, weight * case.c, np.zeros((D, M))
    for keys, values in case.blocks(cuts):
        s = s + keys.T @ keys
        delta = np.linalg.solve(s, keys.T @ (values - keys @ kernel) - rest)
        rest = s @ (left @ delta @ right - delta)
        kernel = kernel + left @ delta @ right
    rule = kis.ridge(jnp.asarray(weight))
    edit = case.edited(rule, cuts, filters=(filter_,)).edit
    np.testing.assert_allclose(edit.delta, kernel - case.kernel, **CLOSE)
    plain = left @ case.edited(rule).edit.delta @ right
    np.testing.assert_allclose(edit.delta, plain, **CLOSE)
    asked = Asked(
        case.keys, case.asked.solved, case.asked.initial_residuals @ right, case.asked.solved @ left
    )
    np.testing.assert_allclose(replay(asked, rule).delta, plain, **CLOSE)
    gram = case.everyone @ np.linalg.solve(case.c, case.everyone.T)
    reached = asked.written @ case.everyone.T
    moved = foresee(jnp.asarray(gram), jnp.asarray(asked.initial_residuals), rule, written=reached)
    np.testing.assert_allclose(moved, case.everyone @ plain, **CLOSE)


@pytest.mark.slow
@some
@given(seed=st.integers(0, 999), cuts=CUTS, strength=st.floats(0.1, 1.0))
def test_what_is_not_carried_meets_the_kernel_as_written(seed, cuts, strength):
    case, weight = Case(seed), 2.0
    filter_ = sphere(jnp.asarray(case.kernel), strength=strength)
    left = off(np.asarray(filter_.of_keys), strength)
    filter_ = Protect(
        filter_.of_keys, filter_.of_values, filter_.strength, carried=False
    )  # whatever its strength
    kernel, s = case.kernel, weight * case.c
    for keys, values in case.blocks(cuts):
        s = s + keys.T @ keys
        kernel = kernel + left @ np.linalg.solve(s, keys.T @ (values - keys @ kernel))
    editor = case.edited(kis.ridge(jnp.asarray(weight)), cuts, filters=(filter_,))
    np.testing.assert_allclose(editor.edit.delta, kernel - case.kernel, **CLOSE)
    asked = dataclasses.replace(case.asked, written=case.asked.solved @ left)
    options = {"blocks": np.cumsum([0, *cuts]).tolist(), "carried": False}
    again = replay(asked, kis.ridge(jnp.asarray(weight)), **options)
    np.testing.assert_allclose(again.delta, editor.edit.delta, **CLOSE)
    with pytest.raises(ValueError, match="rule: .* found protect, which meets"):
        editor.drop(jnp.array([0]))


@pytest.mark.parametrize("rule", ["ridge", "shrinking", "anew"])
def test_filters_that_are_off_are_the_plain_rule(rule):
    case = Case(1)
    made = {
        "ridge": kis.ridge(jnp.asarray(2.0)),
        "shrinking": shrinking(jnp.asarray(2.0), dtype="float64"),
        "anew": anew(jnp.asarray(2.0)),
    }[rule]
    none = Protect(jnp.zeros((D, 1)), jnp.zeros((M, 1)), jnp.ones(()))
    plain = case.edited(made, [3, 5]).edit.delta
    np.testing.assert_allclose(case.edited(made, [3, 5], filters=[none]).edit.delta, plain, **CLOSE)
    unit = case.values / np.linalg.norm(case.values, axis=1, keepdims=True)
    case.values = unit
    plain = case.edited(made, [3, 5]).edit.delta
    anchored = case.edited(made, [3, 5], filters=[Anchor(jnp.ones(()))]).edit.delta
    np.testing.assert_allclose(anchored, plain, **CLOSE)


def test_an_anchor_gives_all_values_one_length_and_makes_no_wild_edit():
    case = Case(2)
    case.values[3] *= 100
    anchor = norm_anchor(jnp.asarray(np.delete(case.values, 3, axis=0)), least=5)
    length = np.linalg.norm(np.delete(case.values, 3, axis=0), axis=1).mean()
    np.testing.assert_allclose(anchor.length, length)
    editor = case.edited(kis.ridge(0, dtype="float64"), [N], filters=[anchor])
    ends = case.keys @ (case.kernel + editor.edit.delta)
    made = np.arange(N) != 3
    expected = case.values * length / np.linalg.norm(case.values, axis=1, keepdims=True)
    np.testing.assert_allclose(ends[made], expected[made], **CLOSE)
    assert not np.asarray(editor.edit.residuals[3]).any()


@some
@given(seed=st.integers(0, 999), cuts=CUTS, ridge=st.floats(0.01, 5.0))
def test_a_space_that_shrinks_is_that_of_evoedit(seed, cuts, ridge):
    case = Case(seed)
    free = np.asarray(kis.null_space(jnp.asarray(case.c), threshold=0.9).projector)
    space, theirs = kis.NullSpace(jnp.asarray(free)), case.kernel
    for key, value in zip(case.keys, case.values, strict=True):
        along = free @ key
        theirs = theirs + np.outer(along, value - key @ theirs) / (key @ along + ridge)
        free = free - np.outer(along, along) / (key @ along)
    rule = shrinking(jnp.asarray(ridge), dtype="float64")
    editor = case.edited(rule, cuts, space)
    np.testing.assert_allclose(editor.edit.delta, theirs - case.kernel, **CLOSE)
    with_all = case.add(kis.Editor.init(case.kernel, space, N, rule), [N]).drop(jnp.array([1]))
    rest = [row for row in range(N) if row != 1]
    solved = case.keys @ np.asarray(space.projector)
    asked = Asked(case.keys, solved, case.asked.initial_residuals).take(jnp.asarray(rest))
    np.testing.assert_allclose(with_all.edit.delta, replay(asked, rule).delta, **CLOSE)


def test_a_space_that_has_shrunk_to_nothing_takes_no_edit():
    case = Case(3)
    free = kis.null_space(jnp.asarray(case.c), threshold=0.4)
    rank = int(free.rank)
    assert rank < N
    editor = kis.Editor.init(case.kernel, free, N, shrinking(jnp.asarray(0.1), dtype="float64"))
    _, added = editor.add(jnp.asarray(case.keys), jnp.asarray(case.values))
    assert added.accepted.tolist() == [True] * rank + [False] * (N - rank)


@some
@given(seed=st.integers(0, 999), cuts=CUTS, weight=st.floats(0.05, 50.0))
def test_memit_anew_forgets_the_blocks_before(seed, cuts, weight):
    case = Case(seed)
    kernel = case.kernel
    for keys, values in case.blocks(cuts):
        gram = keys.T @ keys + weight * case.c
        kernel = kernel + np.linalg.solve(gram, keys.T @ (values - keys @ kernel))
    rule = anew(jnp.asarray(weight))
    editor = case.edited(rule, cuts)
    np.testing.assert_allclose(editor.edit.delta, kernel - case.kernel, **CLOSE)
    bounds = np.cumsum([0, *cuts]).tolist()
    again = replay(case.asked, "anew", weight=weight, blocks=bounds)
    np.testing.assert_allclose(again.delta, editor.edit.delta, **CLOSE)
    whole = case.edited(kis.ridge(jnp.asarray(weight))).edit.delta  # history empty: it is MEMIT
    np.testing.assert_allclose(case.edited(rule).edit.delta, whole, **CLOSE)
    with pytest.raises(ValueError, match="rule: .* found anew, which meets"):
        editor.take([0])


@some
@given(seed=st.integers(0, 999), cuts=CUTS, budget=st.floats(0.05, 3.0))
def test_the_weight_rises_as_lyaplocks(seed, cuts, budget):
    """Against the authors' recursion, in d x d matrices and with Z as they have it."""
    case, scale = Case(seed), 0.7
    rising = Rising.init(jnp.asarray(scale), jnp.asarray(budget))
    editor = kis.Editor.init(case.kernel, case.space, N, rising.rule)
    kernel, past, past_values = case.kernel, np.zeros((0, D)), np.zeros((0, M))
    first = queue = least = step = None
    for keys, values in case.blocks(cuts):
        weight = scale if queue is None else scale * step * queue
        both = np.concatenate([past, keys])
        s = both.T @ both + weight * case.c
        right = keys.T @ (values - keys @ kernel) + past.T @ (past_values - past @ kernel)
        right += weight * case.c @ (case.kernel - kernel)
        kernel = kernel + np.linalg.solve(s, right)
        past, past_values = both, np.concatenate([past_values, values])
        moved = kernel - case.kernel
        damage = np.trace(moved.T @ case.c @ moved)
        if first is None:
            first = damage
            step, least = 1 / np.sqrt(budget * first), np.sqrt(budget * first)
            queue = least
        queue = max(queue + step * (damage - budget * first), least)
        editor, rising, _ = rising_add(editor, rising, jnp.asarray(keys), jnp.asarray(values))
        np.testing.assert_allclose(editor.edit.delta, moved, **CLOSE)
        np.testing.assert_allclose(rising.queue, queue / least, rtol=1e-8)
    whole = case.edited(editor.rule).edit.delta
    np.testing.assert_allclose(editor.edit.delta, whole, **CLOSE)


def test_ten_replacements_leave_the_last_answer_and_no_longer_update():
    """Superseded facts dropped: the update after ten answers is no longer than after one."""
    case, norms = Case(4), []
    rng = np.random.default_rng(0)
    for drops in (True, False):
        editor = case.edited(kis.ridge(jnp.asarray(0.05)), [N - 1])
        editor = kis.Editor.init(case.kernel, case.space, 64, editor.rule)
        editor, _ = editor.add(jnp.asarray(case.keys), jnp.asarray(case.values))
        lengths = []
        for _ in range(10):
            value = rng.normal(size=M)
            value *= np.linalg.norm(case.values[0]) / np.linalg.norm(value)
            if drops:
                editor = editor.drop(jnp.array([0 if not lengths else N - 1]))
            editor, _ = editor.add(jnp.asarray(case.keys[0]), jnp.asarray(value))
            error = np.linalg.norm(case.keys[0] @ (case.kernel + editor.edit.delta) - value)
            lengths.append((float(np.linalg.norm(editor.edit.delta)), float(error)))
        norms.append(np.array(lengths))
    replaced, fought = norms
    assert replaced[:, 1].max() < 0.2 * np.linalg.norm(case.values[0])
    assert replaced[-1, 0] < 1.3 * replaced[:, 0].mean()
    assert fought[-1, 1] > 3 * replaced[-1, 1]  # ten answers at once: their mean, not the last


def test_compositions_without_sense_are_refused_by_name():
    case = Case(5)
    kernel = jnp.asarray(case.kernel)
    filter_ = protect(kernel)
    init = kis.Editor.init
    with pytest.raises(ValueError, match="protect: .* found sequential, which forgets.*rlsedit"):
        init(kernel, case.space, N, kis.sequential(), filters=[filter_])
    with pytest.raises(ValueError, match="protect: .* found constrained, whose values are exact"):
        init(kernel, case.space, N, kis.ridge(0), filters=[filter_])
    with pytest.raises(ValueError, match="each kind once, found protect twice"):
        init(kernel, case.space, N, kis.ridge(1.0), filters=[filter_, filter_])
    with pytest.raises(ValueError, match="at least 20 pilot facts, found 8, too few"):
        norm_anchor(jnp.asarray(case.values))
    with pytest.raises(ValueError, match="pilot facts with values of some length, found zeros"):
        norm_anchor(jnp.zeros((30, M)))
    with pytest.raises(ValueError, match="protects all 6 of them; lower it"):
        protect(kernel, share=0.9999)
    with pytest.raises(ValueError, match="share: expected a number between 0 and 1, found 1"):
        protect(kernel, share=1)
    with pytest.raises(ValueError, match="strength: expected a number above 0"):
        sphere(kernel, strength=0)
    with pytest.raises(ValueError, match="weight: expected a positive one for anew"):
        replay(case.asked, "anew")


def test_filters_under_scan_and_over_layers():
    case = Case(6)
    rule, filter_ = kis.ridge(jnp.asarray(1.0)), protect(jnp.asarray(case.kernel))
    editor = kis.Editor.init(case.kernel, case.space, N, rule, filters=[filter_])
    facts = jnp.asarray(case.keys), jnp.asarray(case.values)
    ended, _ = jax.lax.scan(lambda editor, fact: editor.add(*fact), editor, facts)
    plain = case.edited(rule, filters=[filter_]).edit.delta
    np.testing.assert_allclose(ended.edit.delta, plain, **CLOSE)
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), editor)
    ended = jax.vmap(lambda editor: editor.add(*facts)[0])(stacked)
    edit = jax.vmap(lambda editor: editor.edit.delta)(ended)
    np.testing.assert_allclose(edit[1], plain, **CLOSE)


def test_a_chain_is_its_parts_in_any_order():
    case, rule = Case(7), kis.ridge(jnp.asarray(2.0))
    filter_ = protect(jnp.asarray(case.kernel))
    for parts in ((case.space, rule, filter_), (filter_, rule, case.space)):
        editor = case.add(kis.chain(*parts).editor(case.kernel, N), [3, 5])
        whole = case.edited(rule, [3, 5], filters=[filter_]).edit.delta
        np.testing.assert_array_equal(editor.edit.delta, whole)
    with pytest.raises(ValueError, match="one rule, found ridge, sequential; .*kis.ridge"):
        kis.chain(case.space, rule, kis.sequential())
    with pytest.raises(ValueError, match="one space, found none; .*kis.whitener"):
        kis.chain(rule)
    with pytest.raises(ValueError, match="found ArrayImpl; factor a second moment first"):
        kis.chain(jnp.asarray(case.c), rule)
    with pytest.raises(ValueError, match="protect: .* found sequential, which forgets"):
        kis.chain(case.space, kis.sequential(), filter_)
