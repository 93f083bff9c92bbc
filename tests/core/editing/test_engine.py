"""One engine: each rule in each space, by every way that there is to the same update."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kis_jax as kis
from kis_jax.core.editing.replay import Asked, foresee, independent, replay

N, OTHERS, D, M = 6, 3, 12, 3
TOLERANCE = {"float64": 1e-9, "float32": 2e-3}
RULES = ("sequential", "constrained", "ridge")
SPACES = ("cholesky", "eigh", "refined", "null space", "restricted", "identity", "blocked")


class Case:
    """A layer, facts and keys to be left alone; C so that half of the directions are free."""

    def __init__(self, seed, dtype="float64"):
        rng = np.random.default_rng(seed)
        turn = np.linalg.qr(rng.normal(size=(D, D)))[0]
        self.c = turn @ np.diag(np.geomspace(1, 0.05, D)) @ turn.T
        self.kernel = rng.normal(size=(D, M))
        self.keys = rng.normal(size=(N + OTHERS, D))
        self.values = rng.normal(size=(N, M))
        self.dtype = dtype
        self.arrays = [
            jnp.asarray(x, dtype) for x in (self.kernel, self.keys[:N], self.values, self.keys)
        ]

    def space(self, name):
        c = jnp.asarray(self.c, self.dtype)
        free = kis.null_space(c, threshold=0.9)
        makers = {
            "null space": lambda: free,
            "restricted": lambda: kis.Restricted(kis.whitener(c), free),
            "identity": lambda: kis.Identity(D, self.dtype),
            "blocked": lambda: blocked(c),
        }
        return makers[name]() if name in makers else kis.whitener(c, method=name)

    def inverse(self, name):
        """The matrix that the space stands for, in NumPy."""
        if name == "identity":
            return np.eye(D)
        inverse = np.linalg.inv(self.c)
        eigenvalues, vectors = np.linalg.eigh(self.c)
        free = vectors[:, eigenvalues <= 0.9 * eigenvalues.mean()]
        projector = free @ free.T
        return {"null space": projector, "restricted": projector @ inverse @ projector}.get(
            name, inverse
        )


def blocked(c):
    mesh = jax.make_mesh((2, 2), ("x", "y"), devices=jax.devices()[:4])
    rows = jax.NamedSharding(mesh, jax.P(("x", "y")))
    return kis.blocked_whitener(jax.device_put(c, rows))


def rule_of(name, weight, dtype="float64"):
    return {
        "sequential": kis.sequential,
        "constrained": lambda: kis.ridge(0, dtype=dtype),
        "ridge": lambda: kis.ridge(jnp.asarray(weight, dtype)),
    }[name]()


def expected_update(rule, case, inverse, weight, rows=range(N)):
    """By d x d or n x n equations of NumPy, nothing of the engine."""
    keys, values, kernel = case.keys[list(rows)], case.values[list(rows)], case.kernel
    if rule == "sequential":
        edited = kernel
        for key, value in zip(keys, values, strict=True):
            along = inverse @ key
            edited = edited + np.outer(along, value - key @ edited) / (key @ along)
        return edited - kernel
    gram = keys @ inverse @ keys.T
    shift = weight if rule == "ridge" else 0.0
    solved = np.linalg.solve(gram + shift * np.eye(len(keys)), values - keys @ kernel)
    return inverse @ keys.T @ solved


def added(editor, keys, values, sizes):
    start = 0
    for size in sizes:
        here = slice(start, start + size) if size > 1 else start
        editor, said = editor.add(keys[here], values[here])
        assert said.accepted.shape == ((size,) if size > 1 else ()) and said.accepted.all()
        start += size
    return editor


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["cholesky", "eigh", "null space", "restricted", "identity"])
@pytest.mark.parametrize("rule", RULES)
@settings(max_examples=4, deadline=None)
@given(
    seed=st.integers(0, 999),
    cuts=st.sampled_from([[1] * N, [N], [3, 3]]),
    weight=st.floats(0.05, 50.0),
)
def test_every_way_is_the_same_update(rule, name, seed, cuts, weight):
    """Closed form = one by one = blocks = replay = the forecast's moves; and all as defined."""
    if rule == "constrained" and name in ("null space", "restricted"):
        return  # more facts than free directions: no exact solution
    case = Case(seed)
    kernel, keys, values, everyone = case.arrays
    space, made = case.space(name), rule_of(rule, weight)
    inverse = case.inverse(name)
    update = expected_update(rule, case, inverse, weight)
    scale = max(1.0, np.abs(update).max())
    close = dict(rtol=0, atol=TOLERANCE["float64"] * scale)

    editor = added(kis.Editor.init(kernel, space, N + 1, made), keys, values, cuts)
    np.testing.assert_allclose(editor.edit.delta, update, **close)
    prefix = expected_update(rule, case, inverse, weight, range(3))
    np.testing.assert_allclose(editor.edit.first(3).delta, prefix, **close)

    asked = Asked(keys, space.solve(keys), values - keys @ kernel)
    np.testing.assert_allclose(replay(asked, made).delta, update, **close)
    moves = foresee(kis.gram(everyone, space), asked.initial_residuals, made)
    np.testing.assert_allclose(moves, case.keys @ update, **close)

    edits = {
        "sequential": lambda: kis.edit_sequential(kernel, keys, values, space),
        "constrained": lambda: kis.edit_constrained(kernel, keys, values, space),
        "ridge": lambda: kis.edit_batch(kernel, keys, values, space, weight),
    }
    np.testing.assert_allclose(edits[rule]().delta, update, **close)


@pytest.mark.parametrize(
    ("rule", "name"),
    [("ridge", name) for name in SPACES] + [("constrained", "cholesky"), ("sequential", "blocked")],
)
def test_the_same_in_float32(rule, name):
    case = Case(3, "float32")
    kernel, keys, values, _ = case.arrays
    update = expected_update(rule, case, case.inverse(name), 2.0)
    editor = kis.Editor.init(kernel, case.space(name), N, rule_of(rule, 2.0, "float32"))
    found = added(editor, keys, values, [N]).edit.delta
    assert found.dtype == jnp.float32
    scale = max(1.0, np.abs(update).max())
    np.testing.assert_allclose(found, update, rtol=0, atol=TOLERANCE["float32"] * scale)


@pytest.mark.usefixtures("x64")
@settings(max_examples=8, deadline=None)
@given(
    seed=st.integers(0, 999),
    cuts=st.sampled_from([[1] * N, [N], [1, 3, 2], [3, 3]]),
    gone=st.sets(st.integers(0, N - 1), max_size=N - 1),
)
def test_ridge_in_any_blocks_is_the_whole_solve_and_so_without_some_facts(seed, cuts, gone):
    """(w C + K'K)^-1 K'(V - K W_0), over all facts; superseded ones taken out of the sum."""
    case, weight = Case(seed), 1.5
    kernel, keys, values, _ = case.arrays
    editor = kis.Editor.init(kernel, kis.whitener(jnp.asarray(case.c)), N, kis.ridge(weight))
    editor = added(editor, keys, values, cuts)
    kept = [row for row in range(N) if row not in gone]
    for state, rows in ((editor, range(N)), (editor.drop(np.array(sorted(gone), int)), kept)):
        k, v = case.keys[list(rows)], case.values[list(rows)]
        system = weight * case.c + k.T @ k
        expected = np.linalg.solve(system, k.T @ (v - k @ case.kernel))
        np.testing.assert_allclose(state.edit.delta, expected, rtol=0, atol=1e-9)
        assert int(state.count) == len(k)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("rule", RULES)
def test_what_is_dropped_was_never_asked(rule):
    """In the middle, one that repeated another, and rows in another order; by index and by mask."""
    case = Case(5)
    kernel, keys, values, _ = case.arrays
    keys = keys.at[4].set(2 * keys[1])
    fresh = kis.Editor.init(kernel, case.space("cholesky"), N, rule_of(rule, 2.0))
    full, said = fresh.add(keys, values)
    assert said.accepted.tolist() == [rule != "constrained" or row != 4 for row in range(N)]
    kept = np.array([0, 2, 3, 4, 5])
    expected, said = fresh.add(keys[kept], values[kept])
    assert said.accepted.all()
    mask = np.arange(N) == 1
    for found in (full.drop([1]), full.drop(mask), full.take(kept)):
        for name in ("coordinates", "along", "own", "residuals", "initial_residuals"):
            one, other = getattr(found, name), getattr(expected, name)
            np.testing.assert_allclose(one, other, rtol=0, atol=1e-9, err_msg=name)
        assert int(found.count) == 5
    turned = fresh.add(keys[kept[::-1]], values[kept[::-1]])[0].edit.delta
    np.testing.assert_allclose(full.take(kept[::-1]).edit.delta, turned, rtol=0, atol=1e-9)
    again, said = full.drop([1]).add(case.arrays[3][N], values[1])
    assert said.accepted and int(again.count) == N


@pytest.mark.parametrize("rule", RULES)
def test_undo_is_bit_for_bit_in_every_rule(rule):
    case = Case(7, "float32")
    kernel, keys, values, _ = case.arrays
    editor = kis.Editor.init(kernel, case.space("cholesky"), N, rule_of(rule, 2.0, "float32"))
    before, _ = editor.add(keys[:2], values[:2])
    after, _ = before.add(keys[2:5], values[2:5])
    jax.tree.map(np.testing.assert_array_equal, after.undo(3), before)


@pytest.mark.parametrize("rule", RULES)
def test_over_layers_and_under_scan(rule):
    """vmap over layers of a scan over facts, with an undo and a drop: as each layer alone."""
    cases = [Case(seed, "float32") for seed in range(3)]
    stacked = [jnp.stack(x) for x in zip(*(case.arrays[:3] for case in cases), strict=True)]
    c = jnp.stack([jnp.asarray(case.c, jnp.float32) for case in cases])
    weights = jnp.array([1.0, 2.0, 3.0])

    def lifetime(kernel, keys, values, c, weight):
        made = kis.ridge(weight) if rule == "ridge" else rule
        editor = kis.Editor.init(kernel, kis.whitener(c), N + 2, made)
        editor, _ = jax.lax.scan(lambda e, kv: e.add(*kv), editor, (keys, values))
        return editor.undo().drop(jnp.array([1])).edit.delta

    found = jax.jit(jax.vmap(lifetime))(*stacked, c, weights)
    for layer, case in enumerate(cases):
        rows = [0, 2, 3, 4]
        expected = expected_update(rule, case, np.linalg.inv(case.c), layer + 1.0, rows)
        np.testing.assert_allclose(found[layer], expected, rtol=0, atol=2e-3)


def test_edits_of_several_layers_have_a_first_and_no_slice():
    cases = [Case(seed, "float32") for seed in range(2)]
    stacked = [jnp.stack(x) for x in zip(*(case.arrays[:3] for case in cases), strict=True)]
    c = jnp.stack([jnp.asarray(case.c, jnp.float32) for case in cases])
    make = lambda kernel, keys, values, c: kis.edit_sequential(  # noqa: E731
        kernel, keys, values, kis.whitener(c)
    )
    edits = jax.vmap(make)(*stacked, c)
    assert len(edits) == N
    with pytest.raises(ValueError, match=r"of several use edit.first\(t\)"):
        edits[:3]
    for layer, case in enumerate(cases):
        alone = make(*case.arrays[:3], c[layer])[:3]
        np.testing.assert_allclose(edits.first(3).residuals[layer], alone.residuals, atol=1e-5)


@pytest.mark.usefixtures("x64")
def test_a_superseded_fact_leaves_the_solve():
    """The same key asked for another value: with the old one still there, neither is met."""
    case = Case(9)
    kernel, keys, values, _ = case.arrays
    editor = kis.Editor.init(kernel, case.space("cholesky"), N + 1, kis.ridge(1e-3))
    editor, _ = editor.add(keys, values)
    newer, said = editor.add(keys[2], -values[2])
    assert int(said.nearest) == 2 and said.overlap > 0.9
    edited = newer.drop([2]).edit.apply(kernel)
    np.testing.assert_allclose(keys[2] @ edited, -values[2], atol=0.02)
    assert np.abs(keys[2] @ newer.edit.apply(kernel) + values[2]).max() > 0.1


@pytest.mark.usefixtures("x64")
def test_the_forecasts_norms_are_of_its_moves():
    """`kis.forecast` gives norms after every single edit from P; `foresee` the vectors."""
    case = Case(11)
    kernel, keys, values, everyone = case.arrays
    requested = np.asarray(values - keys @ kernel)
    gram = np.asarray(kis.gram(everyone, case.space("cholesky")))
    p = gram[:N] / np.diagonal(gram)[:N, None]
    norms = kis.forecast(jnp.asarray(p[:, :N]), requested, jnp.asarray(p[:, N:]))
    for t in range(1, N + 1):
        rows = np.r_[:t, N : N + OTHERS]
        moved = np.asarray(foresee(gram[np.ix_(rows, rows)], requested[:t], "sequential"))
        for lengths, expected in (
            (np.linalg.norm(moved[:t] - requested[:t], axis=1), norms.on_edited[t - 1, :t]),
            (np.linalg.norm(moved[t:], axis=1), norms.on_others[t - 1]),
        ):
            np.testing.assert_allclose(lengths, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.usefixtures("x64")
def test_earlier_keys_of_a_batch_are_those_of_an_editor():
    case = Case(13)
    kernel, keys, values, _ = case.arrays
    for space, edit in (
        (case.space("cholesky"), kis.edit_batch),
        (case.space("null space"), kis.edit_null_space),
    ):
        editor = kis.Editor.init(kernel, space, N, kis.ridge(0.7))
        editor, _ = editor.add(keys[:4], values[:4])
        between = editor.edit.apply(kernel)
        editor, _ = editor.add(keys[4:], values[4:])
        later = edit(between, keys[4:], values[4:], space, 0.7, keys[:4])
        expected = later.apply(between)
        np.testing.assert_allclose(editor.edit.apply(kernel), expected, rtol=0, atol=1e-9)


def test_a_null_space_is_its_projector_wherever_an_array_is_wanted():
    c = jnp.diag(jnp.array([5.0, 4.0, 0.01]))
    free = kis.null_space(c)
    np.testing.assert_array_equal(free, np.diag([0.0, 0.0, 1.0]))
    assert jnp.trace(free) == 1 and int(free.rank) == 1
    np.testing.assert_array_equal(jnp.ones((2, 3)) @ jnp.asarray(free), [[0, 0, 1]] * 2)
    assert jax.jit(kis.null_space)(c).shape == (3, 3)


def test_bad_arguments_are_named():
    case = Case(1, "float32")
    kernel, keys, values, _ = case.arrays
    editor, _ = kis.Editor.init(kernel, case.space("cholesky"), N).add(keys[:2], values[:2])
    refusals = {
        "rows: expected rows of edits, 0 to 1": lambda: editor.drop([2]),
        "order: expected rows 0 to 1, each at most once": lambda: editor.take([1, 1]),
        "weight: expected a positive number, found -1": lambda: kis.ridge(-1),
        "tolerance: expected none with weight 2": lambda: kis.ridge(2, tolerance=0.1),
        "keys: expected at most 6": lambda: editor.add(jnp.ones((9, D)), jnp.ones((9, M))),
        "gram, initial_residuals: expected shapes": lambda: foresee(
            jnp.eye(3), jnp.ones((4, 1)), "sequential"
        ),
        "linearly independent keys": lambda: foresee(
            jnp.ones((3, 3)), jnp.ones((2, 1)), "constrained"
        ),
    }
    for match, wrong in refusals.items():
        with pytest.raises(ValueError, match=match):
            wrong()
    repeated = Asked(keys.at[3].set(keys[0]), keys.at[3].set(keys[0]), values)
    assert independent(repeated).tolist() == [True] * 3 + [False] + [True] * 2


def test_no_two_kinds_of_rules_or_spaces_are_one_to_a_compiled_program():
    """jax 0.10.2 compares dataclasses by their static fields, not by their classes."""
    one = jnp.eye(2)
    rules = [kis.sequential(), kis.ridge(0), kis.ridge(1.0)]
    spaces = [kis.whitener(one, method=method) for method in ("cholesky", "refined", "eigh")]
    spaces += [kis.null_space(jnp.diag(jnp.array([1.0, 0.0]))), kis.Identity(2)]
    spaces += [kis.Restricted(spaces[0], spaces[3])]
    for kinds in (rules, spaces):
        structures = [jax.tree.structure(kind) for kind in kinds]
        assert all(a != b for i, a in enumerate(structures) for b in structures[:i])
