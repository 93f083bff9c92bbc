import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kis_jax as kis
from tests import references

N, D, M, Q = 9, 14, 4, 6


@pytest.fixture(params=["float64", "float32"])
def dtype(request):
    with jax.enable_x64(request.param == "float64"):
        yield request.param


def case(rng, dtype):
    c = references.spd(rng, D, 2.0)
    plain = [rng.normal(size=shape) for shape in ((D, M), (N, D), (N, M), (Q, D))]
    return c, plain, kis.whitener(jnp.asarray(c, dtype)), [jnp.asarray(x, dtype) for x in plain]


def edits(whitener, kernel, keys, values):
    """One edit of every kind."""
    projector = kis.null_space(jnp.diag(jnp.arange(1.0, D + 1, dtype=keys.dtype)), threshold=1.0)
    return {
        "rank_one": kis.edit_rank_one(kernel, keys[0], values[0], whitener),
        "sequential": kis.edit_sequential(kernel, keys, values, whitener),
        "constrained": kis.edit_constrained(kernel, keys, values, whitener),
        "batch": kis.edit_batch(kernel, keys, values, whitener, 2.0),
        "null_space": kis.edit_null_space(kernel, keys, values, projector, 2.0),
    }


def test_both_interferences_equal_those_measured_on_the_edited_kernel(rng, dtype):
    _, (kernel, keys, values, others), whitener, arrays = case(rng, dtype)
    close = dict(rtol=0, atol=10 * references.TOLERANCE[dtype])
    for name, edit in edits(whitener, *arrays[:3]).items():
        edited = np.asarray(edit.apply(arrays[0]), np.float64)
        moved = others @ edited - others @ kernel
        np.testing.assert_allclose(kis.interference(edit, arrays[3]), moved, **close, err_msg=name)
        n = len(edit)
        missed = keys[:n] @ edited - values[:n]
        found = kis.interference_on_edited(edit, arrays[1][:n])
        np.testing.assert_allclose(found, missed, **close, err_msg=name)


def test_ledgers_in_float64_serve_a_float32_program(rng):
    """As they come from disk: NumPy's float64, which jax without x64 reads as float32."""
    _, _, whitener, arrays = case(rng, "float32")
    edit = kis.edit_sequential(*arrays[:3], whitener)
    stored = jax.tree.map(lambda rows: np.asarray(rows, np.float64), edit)
    order = jnp.array([4, 0, 7])
    for found, expected in (
        (stored.apply(arrays[0]), edit.apply(arrays[0])),
        (kis.interference(stored, arrays[3]), kis.interference(edit, arrays[3])),
        (
            kis.interference_on_edited(stored, arrays[1]),
            kis.interference_on_edited(edit, arrays[1]),
        ),
        (
            kis.reorder(stored, arrays[1], order).residuals,
            kis.reorder(edit, arrays[1], order).residuals,
        ),
    ):
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(found, expected, rtol=0, atol=references.TOLERANCE["float32"])


def test_claims_3_and_4_term_by_term(rng, dtype):
    """Sums of superposition times residual, with the loop's own residuals."""
    c, (kernel, keys, values, others), whitener, arrays = case(rng, dtype)
    edit = kis.edit_sequential(*arrays[:3], whitener)
    kernels = references.sequential_edits(kernel, keys, values, c)
    met = [values[i] - keys[i] @ kernels[i] for i in range(N)]
    on_others = references.superposition(keys, c, others)
    within = references.superposition(keys, c)
    original = [sum(on_others[i, o] * met[i] for i in range(N)) for o in range(Q)]
    edited = [sum((within[i, j] * met[i] for i in range(j + 1, N)), np.zeros(M)) for j in range(N)]
    close = dict(rtol=0, atol=10 * references.TOLERANCE[dtype])
    np.testing.assert_allclose(kis.interference(edit, arrays[3]), original, **close)
    found = kis.interference_on_edited(edit, arrays[1])
    np.testing.assert_allclose(found, edited, **close)
    np.testing.assert_allclose(found[-1], 0, **close)  # the last edit is not disturbed at all


@pytest.mark.usefixtures("x64")
def test_editing_is_lossless_where_p_is_zero(rng):
    """Claim 5: whitened keys at right angles do not meet, though plain keys do."""
    c = references.spd(rng, D, 2.0)
    root = np.linalg.cholesky(c)
    keys = np.linalg.qr(rng.normal(size=(D, D)))[0][:N] @ root.T
    kernel, values = rng.normal(size=(D, M)), rng.normal(size=(N, M))
    whitener = kis.whitener(jnp.asarray(c))
    p = kis.superposition(jnp.asarray(keys), whitener)
    np.testing.assert_allclose(p, np.eye(N), atol=1e-10)
    assert np.abs(keys @ keys.T - np.diag(np.sum(keys**2, axis=1))).max() > 0.1
    edit = kis.edit_sequential(*map(jnp.asarray, (kernel, keys, values)), whitener)
    np.testing.assert_allclose(keys @ edit.apply(jnp.asarray(kernel)), values, atol=1e-10)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("pair", [(0, 1), (2, 0), (1, N - 1)])
def test_editing_loses_something_where_one_p_is_not_zero(rng, pair):
    """Claim 5, the other way: let one pair meet, and an edited value is missed by p times x."""
    c = references.spd(rng, D, 2.0)
    whitened = np.linalg.qr(rng.normal(size=(D, D)))[0][:N]
    whitened[pair[1]] += 0.3 * whitened[pair[0]]
    keys = whitened @ np.linalg.cholesky(c).T
    kernel, values = rng.normal(size=(D, M)), rng.normal(size=(N, M))
    edit = kis.edit_sequential(*map(jnp.asarray, (kernel, keys, values)), kis.whitener(c))
    missed = np.abs(keys @ edit.apply(jnp.asarray(kernel)) - values).max(axis=1)
    assert np.flatnonzero(missed > 1e-8).tolist() == [min(pair)]  # the earlier of the two


def test_the_forecast_comes_true_after_every_edit(rng, dtype):
    c, (kernel, keys, values, others), whitener, arrays = case(rng, dtype)
    foreseen = kis.forecast(
        kis.superposition(arrays[1], whitener),
        arrays[2] - arrays[1] @ arrays[0],
        kis.superposition(arrays[1], whitener, arrays[3]),
    )
    kernels = references.sequential_edits(kernel, keys, values, c)
    # A distance is the root of a sum of squares that may cancel: half of the digits.
    close = dict(rtol=0, atol=references.TOLERANCE[dtype] ** 0.5 / 10)
    for t in range(1, N + 1):
        missed = np.linalg.norm(keys @ kernels[t] - values, axis=1)
        missed[t:] = 0
        np.testing.assert_allclose(foreseen.on_edited[t - 1], missed, **close)
        moved = np.linalg.norm(others @ (kernels[t] - kernel), axis=1)
        np.testing.assert_allclose(foreseen.on_others[t - 1], moved, **close)
    met = [values[i] - keys[i] @ kernels[i] for i in range(N)]
    np.testing.assert_allclose(
        foreseen.residuals, met, rtol=0, atol=10 * references.TOLERANCE[dtype]
    )
    assert kis.forecast(kis.superposition(arrays[1], whitener), arrays[2]).on_others is None


@pytest.mark.usefixtures("x64")
def test_forecasts_answer_for_other_orders(rng):
    c, (kernel, keys, values, _), whitener, arrays = case(rng, "float64")
    order = np.array([4, 8, 0, 2])
    p = kis.superposition(arrays[1], whitener)[order][:, order]
    foreseen = kis.forecast(p, (arrays[2] - arrays[1] @ arrays[0])[order])
    edited = references.sequential_edits(kernel, keys[order], values[order], c)[-1]
    missed = np.linalg.norm(keys[order] @ edited - values[order], axis=1)
    np.testing.assert_allclose(foreseen.on_edited[-1], missed, atol=1e-7)


def test_a_forecast_hides_no_nan(rng):
    _, _, whitener, arrays = case(rng, "float32")
    p = kis.superposition(arrays[1], whitener).at[0, 1].set(jnp.nan)
    assert jnp.isnan(kis.forecast(p, arrays[2]).on_edited).any()


def test_bad_arguments_are_named(rng):
    _, _, whitener, arrays = case(rng, "float32")
    edit = kis.edit_sequential(*arrays[:3], whitener)
    with pytest.raises(ValueError, match=r"keys: expected shape \(n, 14\)"):
        kis.interference(edit, arrays[2])
    with pytest.raises(ValueError, match="keys: expected the 9 keys"):
        kis.interference_on_edited(edit, arrays[3])
    with pytest.raises(ValueError, match="initial_residuals=None"):
        kis.interference_on_edited(kis.Edit(edit.directions, edit.residuals), arrays[1])
    p = kis.superposition(arrays[1], whitener)
    with pytest.raises(ValueError, match=r"initial_residuals: expected shape \(9, m\)"):
        kis.forecast(p, arrays[2][:3])
    with pytest.raises(ValueError, match=r"superposition: expected shape \(n, n\)"):
        kis.forecast(p[:3], arrays[2])
    with pytest.raises(ValueError, match="superposition_on_others"):
        kis.forecast(p, arrays[2], p[:3])
