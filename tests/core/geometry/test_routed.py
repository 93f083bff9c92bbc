"""Mixtures of experts: second moments, P and joint edits, against loops and least squares."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kis_jax.core.arrays.groups import group_rows
from kis_jax.core.editing.edits import edit_batch, edit_constrained, edit_sequential
from kis_jax.core.geometry.null_space import null_space, null_space_of_blocks
from kis_jax.core.geometry.routed import (
    Routed,
    concatenated,
    routed_gram,
    routed_second_moment,
    routed_superposition,
)
from kis_jax.core.geometry.second_moment import SecondMoment
from kis_jax.core.geometry.spaces import BlockDiagonal
from kis_jax.core.geometry.superposition import superposition
from kis_jax.core.geometry.whitening import whitener
from tests import references

E, D, M, CHOSEN = 5, 6, 4, 2


def random_routed(rng, n, experts=E, chosen=CHOSEN, d=D):
    keys = rng.normal(size=(n, chosen, d))
    which = np.stack([rng.permutation(experts)[:chosen] for _ in range(n)])
    return Routed(*map(jnp.asarray, (keys, which, rng.uniform(0.1, 1.0, (n, chosen)))))


def rows_of(routed, experts=E):
    """The rows of the whole memory: gated keys at their experts, zeros elsewhere."""
    n, chosen, d = routed.keys.shape
    rows = np.zeros((n, experts, d))
    for fact in range(n):
        for slot in range(chosen):
            gate, key = float(routed.gates[fact, slot]), np.asarray(routed.keys[fact, slot])
            rows[fact, int(routed.experts[fact, slot])] = gate * key
    return rows.reshape(n, experts * d)


def block_diagonal(moments):
    whole = np.zeros((E * D, E * D))
    for e, c in enumerate(moments):
        whole[e * D : (e + 1) * D, e * D : (e + 1) * D] = c
    return whole


@pytest.fixture
def layer():
    """Facts, the mean second moment of each expert, and its whitener; all float64."""
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        moments = np.stack([references.spd(rng, D) for _ in range(E)])
        yield random_routed(rng, 9), moments, {e: whitener(c) for e, c in enumerate(moments)}, rng


@pytest.mark.parametrize("n", [1, 7, 40, 1000])
@pytest.mark.parametrize("count", [1, 3, 64])
def test_rows_come_back_from_their_groups(n, count):
    rng = np.random.default_rng(n)
    owners, rows = rng.integers(0, count + 1, n), rng.normal(size=(n, 2)).astype(np.float32)
    groups = group_rows(jnp.asarray(owners), count)
    blocks = np.asarray(groups.blocks(jnp.asarray(rows)))
    assert blocks.size <= 2 * (n + groups.size * min(count, n))
    for owner in range(count):
        mine = blocks[np.asarray(groups.owners) == owner].reshape(-1, 2)
        mine = mine[mine.any(axis=1)]
        np.testing.assert_array_equal(mine, rows[owners == owner])
    there = owners < count
    np.testing.assert_array_equal(np.asarray(groups.rows(jnp.asarray(blocks)))[there], rows[there])


@pytest.mark.parametrize("chosen", [1, 2, E])
def test_second_moments_equal_a_loop_over_tokens(chosen):
    rng = np.random.default_rng(1)
    with jax.enable_x64(False):
        tokens = random_routed(rng, 60, chosen=chosen)
        tokens = jax.tree.map(
            lambda a: a.astype(jnp.float32) if a.dtype == jnp.float64 else a, tokens
        )
        tokens = jax.tree.map(lambda a: a.reshape(4, 15, *a.shape[1:]), tokens)
        where = rng.random((4, 15)) < 0.7
        tokens = Routed(
            jnp.where(where[..., None, None], tokens.keys, jnp.nan), tokens.experts, tokens.gates
        )
        found = routed_second_moment(tokens, where, experts=E)
    total, count = np.zeros((E, D, D)), np.zeros(E, int)
    for keys, experts, gates in zip(
        *(np.asarray(a)[where] for a in (tokens.keys, tokens.experts, tokens.gates)), strict=True
    ):
        for key, expert, gate in zip(keys, experts, gates, strict=True):
            total[expert] += np.outer(gate * key, gate * key)
            count[expert] += 1
    np.testing.assert_allclose(found.total, total, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(found.count, count)
    assert count.sum() == chosen * where.sum()


def test_one_expert_is_the_dense_memory():
    rng = np.random.default_rng(2)
    keys = jnp.asarray(rng.normal(size=(20, D)), jnp.float32)
    one = Routed(keys[:, None], jnp.zeros((20, 1), jnp.int32), jnp.ones((20, 1), jnp.float32))
    dense, routed = SecondMoment.zeros(D).update(keys), routed_second_moment(one, experts=1)
    np.testing.assert_array_equal(routed.total[0], dense.total)
    space = whitener(dense)
    found, expected = routed_superposition(one, {0: space}), superposition(keys, space)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_p_of_a_mixture_equals_a_loop_over_experts(layer):
    facts, moments, spaces, rng = layer
    others = random_routed(rng, 4)
    for touched in (None, others):
        columns = facts if touched is None else touched
        expected = np.zeros((len(facts), len(columns)))
        for i in range(len(facts)):
            for j in range(len(columns)):
                for e in range(E):
                    inverse = np.linalg.inv(moments[e])
                    a, b = (
                        sum(
                            float(f.gates[row, s]) * np.asarray(f.keys[row, s])
                            for s in range(CHOSEN)
                            if int(f.experts[row, s]) == e
                        )
                        for f, row in ((facts, i), (columns, j))
                    )
                    if np.ndim(a) and np.ndim(b):
                        expected[i, j] += a @ inverse @ b
        whole = np.linalg.inv(block_diagonal(moments))
        rows = rows_of(facts)
        np.testing.assert_allclose(expected, rows @ whole @ rows_of(columns).T, rtol=1e-9)
        expected /= np.einsum("ia,ab,ib->i", rows, whole, rows)[:, None]
        found = routed_superposition(facts, spaces, touched)
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    shared = (
        np.asarray(facts.experts)[:, None, :, None] == np.asarray(facts.experts)[:, None]
    ).any(axis=(2, 3))
    assert (
        np.asarray(routed_superposition(facts, spaces))[~shared] == 0
    ).all() and not shared.all()


@pytest.mark.parametrize("tokens", [(), (9,), (3, 3)])
def test_rows_of_the_whole_memory_are_those_of_a_loop(layer, tokens):
    facts = jax.tree.map(lambda a: a[: 9 if tokens else 1], layer[0])
    shaped = jax.tree.map(lambda a: a.reshape(*tokens, *a.shape[1:]), facts)
    found = concatenated(shaped, E)
    assert found.shape == (*tokens, E * D)
    np.testing.assert_array_equal(found.reshape(-1, E * D), rows_of(facts))


@pytest.mark.parametrize("weight", [None, 0.7])
def test_a_joint_edit_is_least_squares_over_the_whole_memory(layer, weight):
    facts, moments, spaces, rng = layer
    kernel, values = rng.normal(size=(E * D, M)), rng.normal(size=(len(facts), M))
    space, keys = BlockDiagonal(tuple(spaces.values())), concatenated(facts, E)
    given = jnp.asarray(kernel), keys, jnp.asarray(values), space
    edit = edit_constrained(*given) if weight is None else edit_batch(*given, weight=weight)
    rows, c = rows_of(facts), block_diagonal(moments)
    missing = values - rows @ kernel
    if weight is None:
        inverse = np.linalg.inv(c)
        expected = inverse @ rows.T @ np.linalg.solve(rows @ inverse @ rows.T, missing)
        np.testing.assert_allclose(keys @ edit.apply(jnp.asarray(kernel)), values, rtol=1e-7)
    else:
        expected = np.linalg.solve(weight * c + rows.T @ rows, rows.T @ missing)
    np.testing.assert_allclose(edit.delta, expected, rtol=1e-6, atol=1e-8)
    unread = sorted(set(range(E)) - set(np.asarray(facts.experts).ravel().tolist()))
    assert not np.asarray(edit.delta).reshape(E, D, M)[unread].any()


def test_the_edits_of_a_sequence_are_those_of_the_whole_memory(layer):
    facts, moments, spaces, rng = layer
    kernel, values = rng.normal(size=(E * D, M)), rng.normal(size=(len(facts), M))
    space, keys = BlockDiagonal(tuple(spaces.values())), concatenated(facts, E)
    edit = edit_sequential(jnp.asarray(kernel), keys, jnp.asarray(values), space)
    memory, c = kernel.copy(), block_diagonal(moments)
    for t, (row, value) in enumerate(zip(rows_of(facts), values, strict=True), 1):
        direction = np.linalg.solve(c, row) / (row @ np.linalg.solve(c, row))
        memory += np.outer(direction, value - row @ memory)
        found = edit[:t].apply(jnp.asarray(kernel))
        np.testing.assert_allclose(found, memory, rtol=1e-6, atol=1e-8)


def test_a_space_of_blocks_is_that_of_the_whole_matrix(layer):
    facts, moments, spaces, _ = layer
    space, keys = BlockDiagonal(tuple(spaces.values())), concatenated(facts, E)
    whole = whitener(jnp.asarray(block_diagonal(moments)))
    assert (space.width, int(space.rank), space.extended) == (E * D, E * D, False)
    np.testing.assert_allclose(space.solve(keys), whole.solve(keys), rtol=1e-8, atol=1e-10)
    found = superposition(keys, space)
    np.testing.assert_allclose(found, superposition(keys, whole), rtol=1e-8, atol=1e-10)
    compiled = jax.jit(superposition)(keys, space)
    np.testing.assert_allclose(compiled, found, rtol=1e-8, atol=1e-10)
    moments = moments * np.array([1, 30, 0.1, 1, 10])[:, None, None]  # as they are read
    for how in ({"threshold": 0.2}, {"share": 0.1}):
        free = null_space_of_blocks(jnp.asarray(moments), **how)
        expected = null_space(jnp.asarray(block_diagonal(moments)), **how)
        assert int(free.rank) == int(expected.rank) > 1
        np.testing.assert_allclose(free.solve(keys), expected.solve(keys), atol=1e-9)
    ranks = [int(block.rank) for block in free.blocks]
    assert len(set(ranks)) > 1, "experts weighed against one another, not one by one"
    with pytest.raises(ValueError, match="expected a direction with less than 1e-12 of the trace"):
        null_space_of_blocks(jnp.asarray(moments), share=1e-12)
    with pytest.raises(ValueError, match=r"keys: expected .*30"):
        space.coordinates(keys[:, :-1])


def test_what_a_mixture_cannot_be_is_refused(layer):
    facts, _, spaces, _ = layer
    broken = Routed(facts.keys, facts.experts, facts.gates.at[3, 1].set(jnp.nan))
    with pytest.raises(ValueError, match="finite gates, found NaN or infinity in fact 3"):
        routed_gram(broken, spaces)
    twice = Routed(facts.keys, facts.experts.at[2].set(1), facts.gates)
    with pytest.raises(ValueError, match="different experts for each fact, found one twice"):
        routed_gram(twice, spaces)
    with pytest.raises(
        ValueError, match=r"one token a fact, keys \(n, k, d\), found \(1, 9, 2, 6\)"
    ):
        routed_gram(jax.tree.map(lambda a: a[None], facts), spaces)
