"""Forecasts from the Gram matrix alone, held against kernels that were really edited."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kis_jax as kis
from kis_jax.core.host import float64_on_host
from kis_jax.measure.editing.successive import InBatches, OneByOne
from kis_jax.measure.lifelong.displacement import displacement
from kis_jax.measure.planning.foresight import foresee
from tests import references

N, OTHERS, D, M = 9, 5, 16, 3
TOLERANCE = references.TOLERANCE["float64"]


def problem(seed):
    rng = np.random.default_rng(seed)
    c = references.spd(rng, D)
    keys = rng.normal(size=(N + OTHERS, D))
    return keys, rng.normal(size=(D, M)), rng.normal(size=(N, M)), c


def blocks_of(cuts):
    bounds = [0, *sorted(set(cuts)), N]
    return [slice(a, b) for a, b in zip(bounds, bounds[1:], strict=False) if a < b]


def kernels(rule, keys, kernel, values, c, blocks, penalty):
    """The kernel after each block, by the references alone."""
    edited = keys[:N]
    for block in blocks:
        if rule == "sequential":
            kernel = references.sequential_edits(kernel, edited[block], values[block], c)[-1]
        elif rule == "batch":
            previous = edited[: block.start]
            kernel = references.batch_edit(
                kernel, edited[block], values[block], penalty * c, previous
            )
        yield kernel


def free_directions(c):
    with float64_on_host():
        return np.asarray(kis.null_space(c, threshold=0.5))


@given(st.integers(0, 999), st.lists(st.integers(1, N - 1), max_size=3))
@settings(max_examples=20, deadline=None)
def test_forecasts_equal_what_the_kernel_does(seed, cuts):
    keys, kernel, values, c = problem(seed)
    requested, blocks = values - keys[:N] @ kernel, blocks_of(cuts)
    gram = keys @ np.linalg.solve(c, keys.T)
    for rule, penalty in (("sequential", 0.0), ("batch", 2.5)):
        *_, after = kernels(rule, keys, kernel, values, c, blocks, penalty)
        moved = foresee(gram, requested, blocks, rule=rule, penalty=penalty)
        np.testing.assert_allclose(moved, keys @ (after - kernel), atol=1e-7, rtol=1e-7)
    constrained = references.constrained_edit(kernel, keys[:N], values, c)
    moved = foresee(gram, requested, blocks, rule="constrained")
    np.testing.assert_allclose(moved, keys @ (constrained - kernel), atol=1e-6, rtol=1e-6)
    np.testing.assert_allclose(moved[:N], requested, atol=1e-7)


def test_the_null_spaces_forecast_equals_its_kernel():
    keys, kernel, values, c = problem(1)
    blocks, free = blocks_of([2, 5]), free_directions(c)
    edits = InBatches(kernel, free, 0.7)
    for block in blocks:
        assert edits.add(keys[:N][block], values[block]).all()
    requested = values - keys[:N] @ kernel
    moved = foresee(keys @ free @ keys.T, requested, blocks, rule="null_space", penalty=0.7)
    np.testing.assert_allclose(moved, keys @ (edits.kernel - kernel), atol=1e-9)
    # By another way to the same kernel: all blocks minimise one sum of squares, added up.
    basis = np.linalg.eigh(free)[1][:, np.linalg.eigvalsh(free) > 0.5]
    inner = keys[:N] @ basis
    update = np.zeros((basis.shape[1], M))
    for block in blocks:
        seen, unmet = inner[: block.stop], values[block] - keys[:N][block] @ kernel
        matrix = seen.T @ seen + 0.7 * np.eye(len(update))
        update += np.linalg.solve(matrix, inner[block].T @ (unmet - inner[block] @ update))
    np.testing.assert_allclose(edits.kernel - kernel, basis @ update, atol=1e-9)


def test_it_agrees_with_the_forecast_of_norms():
    """`kis.forecast` gives the norms after every single edit from P; this one the vectors."""
    keys, kernel, values, c = problem(2)
    requested = values - keys[:N] @ kernel
    gram = keys @ np.linalg.solve(c, keys.T)
    p = gram[:N] / np.diagonal(gram)[:N, None]
    with float64_on_host():
        norms = kis.forecast(p[:, :N], requested, p[:, N:])
        on_edited, on_others = np.asarray(norms.on_edited), np.asarray(norms.on_others)
    for t in range(1, N + 1):
        rows = np.r_[:t, N : N + OTHERS]
        moved = foresee(gram[np.ix_(rows, rows)], requested[:t], [slice(0, t)], rule="sequential")
        np.testing.assert_allclose(
            np.linalg.norm(moved[:t] - requested[:t], axis=1), on_edited[t - 1, :t], atol=1e-6
        )
        np.testing.assert_allclose(
            np.linalg.norm(moved[t:], axis=1), on_others[t - 1], rtol=1e-6, atol=1e-6
        )


@pytest.mark.parametrize("rule", ["sequential", "constrained"])
def test_blocks_and_single_edits_are_the_same_edits(rule):
    keys, kernel, values, c = problem(3)
    with float64_on_host():
        whitener = kis.whitener(c)
    at_once = OneByOne(kernel, whitener, N, rule)
    assert at_once.add(keys[:N], values).all()
    singly = OneByOne(kernel, whitener, N, rule)
    for i in range(N):
        assert singly.add(keys[i : i + 1], values[i : i + 1]).all()
    np.testing.assert_allclose(at_once.kernel, singly.kernel, atol=1e-9)
    if rule == "sequential":
        expected = references.sequential_edits(kernel, keys[:N], values, c)[-1]
    else:
        expected = references.constrained_edit(kernel, keys[:N], values, c)
    np.testing.assert_allclose(at_once.kernel, expected, atol=1e-7)


def test_batches_keep_earlier_keys_in_their_sum():
    keys, kernel, values, c = problem(4)
    blocks = blocks_of([4])
    with float64_on_host():
        edits = InBatches(kernel, kis.whitener(c), 2.5)
    for block, expected in zip(
        blocks, kernels("batch", keys, kernel, values, c, blocks, 2.5), strict=True
    ):
        edits.add(keys[:N][block], values[block])
        np.testing.assert_allclose(edits.kernel, expected, atol=1e-9)


def test_what_cannot_be_edited_is_left_out():
    keys, kernel, values, c = problem(5)
    keys[3] = 2 * keys[1]
    values[5, 0] = np.nan
    with float64_on_host():
        whitener = kis.whitener(c)
    edits = OneByOne(kernel, whitener, N, "constrained")
    made = edits.add(keys[:N], values)
    assert np.flatnonzero(~made).tolist() == [3, 5]
    expected = references.constrained_edit(kernel, keys[:N][made], values[made], c)
    np.testing.assert_allclose(edits.kernel, expected, atol=1e-7)
    batches = InBatches(kernel, whitener, 1.0)
    assert np.flatnonzero(~batches.add(keys[:N], values)).tolist() == [5]
    assert np.isfinite(batches.kernel).all()
    before = batches.kernel
    assert not batches.add(keys[:1], np.full((1, M), np.inf)).any()
    assert (batches.kernel == before).all()


def test_wrong_shapes_and_dependent_keys_are_refused():
    with pytest.raises(ValueError, match="gram, requested: expected shapes"):
        foresee(np.eye(3), np.ones((4, 1)), [slice(0, 4)], rule="sequential")
    with pytest.raises(ValueError, match="linearly independent keys"):
        foresee(np.ones((3, 3)), np.ones((2, 1)), [slice(0, 2)], rule="constrained")


def test_displacements_in_numbers():
    measured, scale = np.array([[3.0, 4.0], [0.0, 1.0]]), np.array([10.0, 2.0])
    told = displacement(measured, 1.1 * measured, scale)
    assert told["count"] == 2
    assert told["measured"] == pytest.approx(0.5) and told["largest"] == pytest.approx(0.5)
    assert told["predicted"] == pytest.approx(0.55) and told["error"] == pytest.approx(0.1)
    still = displacement(1e-9 * measured, 0 * measured, scale)
    assert still["error"] is None and still["predicted"] == 0
    assert displacement(measured, None, scale)["predicted"] is None
    assert displacement(np.full((1, 2), np.inf), None, scale[:1])["measured"] is None
    assert displacement(measured[:0], measured[:0], scale[:0]) == {
        "count": 0, "measured": None, "largest": None, "predicted": None, "error": None
    }  # fmt: skip
