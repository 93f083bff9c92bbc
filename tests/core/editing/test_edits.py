import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kis_jax as kis
from tests import references

N, D, M = 7, 12, 5


@pytest.fixture(params=["float64", "float32"])
def dtype(request):
    with jax.enable_x64(request.param == "float64"):
        yield request.param


class Case:
    """Kernel, keys, values and C: in float64 for the references, and as jax arrays."""

    def __init__(self, rng, dtype, n=N, d=D, m=M, log10_condition=2.0):
        self.c = references.spd(rng, d, log10_condition)
        self.kernel = rng.normal(size=(d, m))
        self.keys = rng.normal(size=(n, d))
        self.values = rng.normal(size=(n, m))
        self.arrays = [jnp.asarray(x, dtype) for x in (self.kernel, self.keys, self.values)]
        self.whitener = kis.whitener(jnp.asarray(self.c, dtype))
        self.tolerance = references.TOLERANCE[dtype]

    def edit(self, make, *more, **named):
        return make(*self.arrays, *more, **named)

    def check(self, found, expected):
        """Equal to the tolerance of the dtype, relative to the largest entry, at least 1."""
        atol = self.tolerance * max(1.0, np.abs(expected).max())
        np.testing.assert_allclose(found, expected, rtol=0, atol=atol)

    def edited(self, edit):
        return edit.apply(self.arrays[0])


def test_one_edit_is_romes(rng, dtype):
    case = Case(rng, dtype, n=1)
    kernel, keys, values = case.arrays
    edit = kis.edit_rank_one(kernel, keys[0], values[0], case.whitener)
    expected = references.sequential_edits(case.kernel, case.keys, case.values, case.c)[1]
    case.check(edit.apply(kernel), expected)
    case.check(keys @ edit.apply(kernel), values)
    assert edit.directions.shape == (1, D) and edit.residuals.shape == (1, M)


def test_sequential_is_the_loop_and_so_is_each_prefix(rng, dtype):
    case = Case(rng, dtype)
    edit = case.edit(kis.edit_sequential, case.whitener)
    kernels = references.sequential_edits(case.kernel, case.keys, case.values, case.c)
    for t, expected in enumerate(kernels):
        case.check(case.edited(edit[:t]), expected)
    assert edit.residuals.dtype == dtype and len(edit) == N


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("shape", [(1500, 40, 3), (600, 400, 400)])
def test_many_sequential_edits_are_the_loop(rng, shape):
    """More edits than one triangular solve takes: through a running update, and through shares."""
    n, d, m = shape
    case = Case(rng, "float64", n=n, d=d, m=m, log10_condition=1.0)
    edit = case.edit(kis.edit_sequential, case.whitener)
    expected = references.sequential_edits(case.kernel, case.keys, case.values, case.c)
    scale = np.abs(expected[-1]).max()
    np.testing.assert_allclose(case.edited(edit), expected[-1], rtol=0, atol=1e-10 * scale)
    np.testing.assert_allclose(case.edited(edit[:550]), expected[550], rtol=0, atol=1e-10 * scale)


def test_residuals_solve_the_triangular_system_in_p(rng, dtype):
    case = Case(rng, dtype)
    edit = case.edit(kis.edit_sequential, case.whitener)
    p = references.superposition(case.keys, case.c)
    requested = case.values - case.keys @ case.kernel
    case.check(np.triu(p).T @ edit.residuals, requested)
    case.check(edit.initial_residuals, requested)
    case.check(edit.directions @ case.arrays[1].T, p)


def test_other_orders_and_subsets_need_no_model(rng, dtype):
    case = Case(rng, dtype)
    order = np.array([5, 0, 3, 6])
    edit = kis.reorder(case.edit(kis.edit_sequential, case.whitener), case.arrays[1], order)
    expected = references.sequential_edits(
        case.kernel, case.keys[order], case.values[order], case.c
    )[-1]
    case.check(case.edited(edit), expected)


def test_constrained_fits_all_values_at_least_cost(rng, dtype):
    case = Case(rng, dtype)
    edit = case.edit(kis.edit_constrained, case.whitener)
    expected = references.constrained_edit(case.kernel, case.keys, case.values, case.c)
    case.check(case.edited(edit), expected)
    case.check(case.arrays[1] @ case.edited(edit), case.values)


def test_prefixes_of_constrained_edits_are_constrained_edits(rng, dtype):
    case = Case(rng, dtype)
    edit = case.edit(kis.edit_constrained, case.whitener)
    for t in range(N):
        expected = references.constrained_edit(case.kernel, case.keys[:t], case.values[:t], case.c)
        case.check(case.edited(edit[:t]), expected)


def test_constrained_emmet_formula(rng, dtype):
    """D = C^-1 K' G^-1 R, literally; for one fact it is ROME's."""
    case = Case(rng, dtype)
    inverse = np.linalg.inv(case.c)
    gram = case.keys @ inverse @ case.keys.T
    requested = case.values - case.keys @ case.kernel
    expected = inverse @ case.keys.T @ np.linalg.inv(gram) @ requested
    edit = case.edit(kis.edit_constrained, case.whitener)
    case.check(edit.delta, expected)
    one = [x[:1] if i else x for i, x in enumerate(case.arrays)]
    case.check(
        kis.edit_constrained(*one, case.whitener).delta,
        kis.edit_sequential(*one, case.whitener).delta,
    )


@pytest.mark.parametrize("weight", [1e-2, 1.0, 1e4])
@pytest.mark.parametrize("with_previous", [False, True])
def test_batch_is_memits_d_by_d_solve(rng, dtype, weight, with_previous):
    case = Case(rng, dtype)
    previous = rng.normal(size=(4, D)) if with_previous else None
    expected = references.batch_edit(case.kernel, case.keys, case.values, weight * case.c, previous)
    given_previous = None if previous is None else jnp.asarray(previous, dtype)
    edit = case.edit(kis.edit_batch, case.whitener, weight, given_previous)
    case.check(case.edited(edit), expected)


def test_relaxed_emmet_is_memit_with_the_product_of_its_weights(rng, dtype):
    """R (G / w + e I)^-1 K' C^-1 / w = R (G + w e I)^-1 K' C^-1."""
    case = Case(rng, dtype)
    weight, relaxation = 3.0, 0.2
    inverse = np.linalg.inv(case.c)
    gram = case.keys @ inverse @ case.keys.T
    requested = case.values - case.keys @ case.kernel
    solved = np.linalg.inv(gram / weight + relaxation * np.eye(N)) @ requested
    edit = case.edit(kis.edit_batch, case.whitener, weight * relaxation)
    case.check(edit.delta, inverse @ case.keys.T @ solved / weight)


def projector_case(rng, dtype):
    case = Case(rng, dtype)
    basis = np.linalg.qr(rng.normal(size=(D, 9)))[0]
    projector = basis @ basis.T
    return case, projector, jnp.asarray(projector, dtype)


def test_null_space_is_alphaedits_d_by_d_solve_over_a_sequence_of_batches(rng, dtype):
    case, projector, given_projector = projector_case(rng, dtype)
    ridge = 0.7
    kernel, expected = case.arrays[0], case.kernel
    seen = np.zeros((0, D))
    for batch in range(3):
        keys, values = rng.normal(size=(N, D)), rng.normal(size=(N, M))
        earlier = jnp.asarray(seen, dtype) if batch else None
        edit = kis.edit_null_space(
            kernel,
            jnp.asarray(keys, dtype),
            jnp.asarray(values, dtype),
            given_projector,
            ridge,
            earlier,
        )
        kernel = edit.apply(kernel)
        system = projector @ (keys.T @ keys + seen.T @ seen) + ridge * np.eye(D)
        expected = expected + np.linalg.solve(
            system, projector @ keys.T @ (values - keys @ expected)
        )
        case.check(kernel, expected)
        seen = np.concatenate([seen, keys])


def test_null_space_is_memit_with_the_projector_for_the_inverse(rng, dtype):
    case, projector, given_projector = projector_case(rng, dtype)
    edit = case.edit(kis.edit_null_space, given_projector, 0.7)
    inner = case.keys @ projector @ case.keys.T + 0.7 * np.eye(N)
    requested = case.values - case.keys @ case.kernel
    expected = projector @ case.keys.T @ np.linalg.solve(inner, requested)
    case.check(edit.delta, expected)
    untouched = jnp.asarray(rng.normal(size=(3, D)) @ (np.eye(D) - projector), dtype)
    case.check(untouched @ edit.delta, 0)


def test_a_key_outside_of_the_null_space_writes_nothing(rng, dtype):
    case, projector, given_projector = projector_case(rng, dtype)
    beyond = np.eye(D) - projector
    outside = jnp.asarray(np.stack([np.zeros(D), rng.normal(size=D) @ beyond]), dtype)
    keys = jnp.concatenate([case.arrays[1], outside])
    values = jnp.concatenate([case.arrays[2], jnp.ones((2, M), dtype)])
    edit = kis.edit_null_space(case.arrays[0], keys, values, given_projector, 0.7)
    case.check(edit.delta, case.edit(kis.edit_null_space, given_projector, 0.7).delta)


@pytest.mark.usefixtures("x64")
def test_sequence_of_null_space_batches_by_the_d_squared_update(rng):
    """Identity: M -= M K (I + K' M K)^-1 K' M, M starting as N / r."""
    case, projector, given_projector = projector_case(rng, "float64")
    ridge = 0.7
    m = projector / ridge
    seen = rng.normal(size=(6, D))
    m = m - m @ seen.T @ np.linalg.inv(np.eye(6) + seen @ m @ seen.T) @ seen @ m
    requested = case.values - case.keys @ case.kernel
    inner = np.linalg.inv(case.keys @ m @ case.keys.T + np.eye(N))
    edit = case.edit(kis.edit_null_space, given_projector, ridge, jnp.asarray(seen))
    case.check(edit.delta, m @ case.keys.T @ inner @ requested)


@settings(max_examples=20, deadline=None)
@given(st.sampled_from([(1, 6), (5, 9)]), st.integers(0, 2**16), st.floats(-4, 4))
def test_the_scale_of_c_and_the_basis_of_keys_change_nothing(shape, seed, log10_scale):
    """W -> A^-T W, k -> A k, C -> s A C A': the same values, for exact edits."""
    rng = np.random.default_rng(seed)
    n, d = shape
    with jax.enable_x64(True):
        case = Case(rng, "float64", n=n, d=d)
        basis = references.spd(rng, d, 1.0)
        kernel = np.linalg.solve(basis, case.kernel)
        keys = case.keys @ basis
        whitener = kis.whitener(jnp.asarray(10.0**log10_scale * basis @ case.c @ basis))
        probes = rng.normal(size=(3, d))
        for make in (kis.edit_sequential, kis.edit_constrained):
            plain = case.edited(case.edit(make, case.whitener))
            edit = make(jnp.asarray(kernel), jnp.asarray(keys), jnp.asarray(case.values), whitener)
            changed = edit.apply(jnp.asarray(kernel))
            np.testing.assert_allclose(
                probes @ basis @ changed,
                probes @ plain,
                atol=1e-6 * (1 + np.abs(plain).max()),
            )


@settings(max_examples=20, deadline=None)
@given(st.integers(0, N), st.integers(0, 2**16))
def test_a_prefix_is_the_edit_of_fewer_facts(t, seed):
    with jax.enable_x64(True):
        case = Case(np.random.default_rng(seed), "float64")
        kernel, keys, values = case.arrays
        whole = kis.edit_sequential(kernel, keys, values, case.whitener)
        fewer = kis.edit_sequential(kernel, keys[:t], values[:t], case.whitener)
        close = dict(rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(whole[:t].residuals, fewer.residuals, **close)
        np.testing.assert_allclose(whole[:t].initial_residuals, fewer.initial_residuals, **close)


@pytest.mark.parametrize("seed", range(8))
def test_combinations_of_keys_are_refused_whatever_rounding_does(seed):
    """In float32, with an ill-conditioned C, in both of the places that ask the question."""
    rng = np.random.default_rng(seed)
    c = jnp.asarray(references.spd(rng, 96, 4.0), jnp.float32)
    keys = rng.normal(size=(4, 96)).astype(np.float32)
    keys[3] = 0.7 * keys[1] + 1.3 * keys[2]
    kernel, values = jnp.zeros((96, 2)), jnp.asarray(rng.normal(size=(4, 2)), jnp.float32)
    whitener = kis.whitener(c)
    with pytest.raises(ValueError, match="row 3 has"):
        kis.edit_constrained(kernel, jnp.asarray(keys), values, whitener)
    editor = kis.Editor.init(kernel, whitener, 4, rule="constrained")
    _, added = editor.add(jnp.asarray(keys), values)
    assert added.accepted.tolist() == [True, True, True, False]
    traced = jax.jit(kis.edit_constrained)(kernel, jnp.asarray(keys), values, whitener)
    assert jnp.isnan(traced.delta).any()


def test_constrained_is_exact_for_keys_that_are_nearly_alike(rng):
    """In float32, at three hundredths of a key to itself."""
    case = Case(rng, "float32")
    kernel, keys, values = case.arrays
    keys = keys.at[4].set(keys[1] + 0.1 * keys[4])
    edit = kis.edit_constrained(kernel, keys, values, case.whitener)
    missed = np.abs(kis.interference_on_edited(edit, keys)).max()
    assert missed < 1e-4 * np.abs(edit.residuals).max()


def test_a_kernel_in_bfloat16_is_edited_in_float32(rng):
    case = Case(rng, "float32")
    kernel = case.arrays[0].astype(jnp.bfloat16)
    edit = kis.edit_sequential(kernel, *case.arrays[1:], case.whitener)
    assert edit.residuals.dtype == jnp.float32 and edit.apply(kernel).dtype == jnp.bfloat16
    expected = kernel.astype(jnp.float32) + edit.delta
    np.testing.assert_array_equal(edit.apply(kernel), expected.astype(jnp.bfloat16))


def test_all_methods_of_whitening_give_one_edit(rng):
    case = Case(rng, "float32")
    c = jnp.asarray(case.c, jnp.float32)
    deltas = [
        case.edit(kis.edit_sequential, kis.whitener(c, method=method)).delta
        for method in ("cholesky", "refined", "eigh")
    ]
    for delta in deltas[1:]:
        case.check(delta, deltas[0])


def test_bad_arguments_are_named(rng):
    case = Case(rng, "float32")
    kernel, keys, values = case.arrays
    whitener = case.whitener

    def refused(match, make, *arguments):
        with pytest.raises(ValueError, match=match):
            make(*arguments)

    refused(
        r"keys: expected shape \(n, 12\)", kis.edit_sequential, kernel, keys.T, values, whitener
    )
    refused("kernel: expected shape", kis.edit_sequential, kernel.T, keys, values, whitener)
    refused("values: expected shape", kis.edit_sequential, kernel, keys, values[:, :2], whitener)
    zero = keys.at[3].set(0)
    refused("row 3 zero or not finite", kis.edit_sequential, kernel, zero, values, whitener)
    nan = values.at[2].set(jnp.nan)
    refused("row 2 zero or not finite", kis.edit_batch, kernel, keys, nan, whitener, 1.0)
    twice = keys.at[5].set(2 * keys[1])
    refused(
        "row 5 has .* of its squared length to itself",
        kis.edit_constrained,
        kernel,
        twice,
        values,
        whitener,
    )
    refused("weight: expected a positive", kis.edit_batch, kernel, keys, values, whitener, 0.0)
    refused(
        "projector: expected a symm", kis.edit_null_space, kernel, keys, values, 2 * jnp.eye(D), 1
    )
    refused("previous: expected shape", kis.edit_batch, kernel, keys, values, whitener, 1.0, values)
    batch = kis.edit_batch(kernel, keys, values, whitener, 1.0)
    refused("made one after another, found rule 'batch'", lambda: batch[:2])
    sequential = kis.edit_sequential(kernel, keys, values, whitener)
    huge = 1e30 * keys
    refused("beyond the range", kis.edit_batch, kernel, huge, values, whitener, 1.0)
    refused("key, value: expected one fact", kis.edit_rank_one, kernel, keys, values, whitener)
    refused(r"expected a prefix \[:t\]", lambda: sequential[2:])
    refused("kernel: expected shape", sequential.apply, kernel.T)
    refused("kernel: expected floating-point", sequential.apply, kernel.astype(int))
    refused("order: expected rows 0 to 6", kis.reorder, sequential, keys, jnp.array([0, 0]))
    refused("expected one of edit_sequential", kis.reorder, batch, keys, jnp.array([0]))
