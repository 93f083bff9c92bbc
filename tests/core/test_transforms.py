"""Every function of the core under jit, vmap over layers, and shard_map; and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

import kis_jax as kis
from tests import references

LAYERS, N, D, M = 4, 6, 9, 3


def inputs(rng):
    """Of several layers: kernels, keys, values and second moments."""
    c = np.stack([references.spd(rng, D, 1.0) for _ in range(LAYERS)])
    shapes = ((LAYERS, D, M), (LAYERS, N, D), (LAYERS, N, M))
    return [jnp.asarray(x, jnp.float32) for x in (*(rng.normal(size=s) for s in shapes), c)]


def edited(make, *more, **options):
    def run(kernel, keys, values, c):
        return make(kernel, keys, values, kis.whitener(c, **options), *more).apply(kernel)

    return run


def null_space(kernel, keys, values, c):
    return kis.edit_null_space(
        kernel, keys, values, kis.null_space(c, threshold=1.0), 0.5, previous=keys[:2]
    ).apply(kernel)


def streamed(rule):
    def run(kernel, keys, values, c):
        editor = kis.Editor.init(kernel, kis.whitener(c), N + 1, rule=rule)
        editor, added = jax.lax.scan(lambda state, edit: state.add(*edit), editor, (keys, values))
        return editor.undo().edit.delta, added

    return run


def interferences(kernel, keys, values, c):
    edit = kis.edit_sequential(kernel, keys, values, kis.whitener(c))
    order = jnp.arange(N - 1, 0, -1)
    return (
        kis.interference(edit, keys[::-1]),
        kis.interference_on_edited(edit[:N], keys),
        kis.reorder(edit, keys, order).delta,
    )


def forecasts(kernel, keys, values, c):
    p = kis.superposition(keys, kis.whitener(c))
    return kis.forecast(p, values - keys @ kernel, p)


def spaces(kernel, keys, values, c):
    whitener = kis.whitener(c)
    return (
        kis.gram(keys, whitener),
        kis.superposition(keys, whitener, keys[:2]),
        kis.cosine_similarity(keys),
        kis.angles(keys, whitener) * (1 - jnp.eye(N)),  # 0 on the diagonal to its root's rounding
        whitener.condition,
        kis.effective_rank(c),
        kis.inverse_residual(c, kis.whitener(c, ridge=0.1)),
    )


def statistics(kernel, keys, values, c):
    p = kis.superposition(keys, kis.whitener(c))
    return (
        kis.off_diagonal_moments(p).kurtosis,
        kis.summarize(keys, kis.whitener(c), tile=2, top=3),
        kis.kurtosis_interval(jax.random.key(0), p, resamples=8),
        kis.tail_index(p, 3),
        kis.gaussian_density(p, jnp.linspace(-1, 1, 5)),
    )


def second_moment(kernel, keys, values, c):
    moment = kis.SecondMoment.zeros(D).update(keys)
    return moment.merge(moment).mean


def iterative(kernel, keys, values, c):
    return kis.solve_iteratively(lambda x: x @ c, keys, jnp.diagonal(c), max_steps=40).rows


FUNCTIONS = {
    "edit_sequential": edited(kis.edit_sequential),
    "edit_sequential, eigh": edited(kis.edit_sequential, method="eigh"),
    "edit_constrained": edited(kis.edit_constrained),
    "edit_batch": edited(kis.edit_batch, 2.0),
    "edit_null_space": null_space,
    "Editor, sequential": streamed("sequential"),
    "Editor, constrained": streamed("constrained"),
    "interference": interferences,
    "forecast": forecasts,
    "superposition": spaces,
    "statistics": statistics,
    "second_moment": second_moment,
    "solve_iteratively": iterative,
}


def assert_close(found, expected):
    def compare(one, other):
        np.testing.assert_allclose(one, other, rtol=2e-3, atol=2e-3)

    jax.tree.map(compare, found, expected)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_one_trace_serves_jit_vmap_and_shard_map(rng, name):
    """Layers stacked, and over a mesh of devices, give what each layer gives alone."""
    function, arguments, traces = FUNCTIONS[name], inputs(rng), 0

    def counted(*arguments):
        nonlocal traces
        traces += 1
        return function(*arguments)

    alone = [function(*(x[layer] for x in arguments)) for layer in range(LAYERS)]
    expected = jax.tree.map(lambda *leaves: np.stack(leaves), *alone)
    stacked = jax.jit(jax.vmap(counted))
    assert_close(stacked(*arguments), expected)
    assert traces == 1
    mesh = jax.make_mesh((2,), ("layers",), devices=jax.devices()[:2])
    spec = PartitionSpec("layers")
    sharded = jax.shard_map(jax.vmap(function), mesh=mesh, in_specs=spec, out_specs=spec)
    given = [jax.device_put(x, jax.NamedSharding(mesh, spec)) for x in arguments]
    assert_close(jax.jit(sharded)(*given), expected)


def test_called_plainly_with_other_numbers_nothing_is_compiled_again(rng):
    """Numbers such as a ridge or a weight are arguments of the programs, not parts of them."""

    def use(seed):
        kernel, keys, values, c = (x[0] for x in inputs(np.random.default_rng(seed)))
        whitener = kis.whitener(c, ridge=0.1 * (seed + 1))
        edit = kis.edit_batch(kernel, keys, values, whitener, 1.0 + seed, keys[:2])
        kis.edit_sequential(kernel, keys, values, whitener).apply(kernel)
        kis.edit_constrained(kernel, keys, values, whitener, tolerance=1e-5 * (seed + 1))
        kis.edit_null_space(kernel, keys, values, jnp.eye(D), 1.0 + seed)
        kis.forecast(kis.superposition(keys, whitener), values)
        editor, _ = kis.Editor.init(kernel, whitener, 9).add(keys, values)
        editor.undo(2)
        return kis.interference(edit, keys), whitener.condition

    use(0)
    events = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: events.append(event) if "backend_compile" in event else None
    )
    try:
        use(1)
        assert not events
        jax.block_until_ready(jax.jit(lambda x: x * 3.25)(jnp.ones(77)))
        assert events  # the listener does hear of programs that are new
    finally:
        jax.monitoring.clear_event_listeners()


@pytest.mark.parametrize(
    "make", [kis.edit_sequential, kis.edit_constrained, kis.edit_batch], ids=lambda f: f.__name__
)
def test_values_sharded_by_columns_need_no_communication(rng, make):
    """A kernel split over devices by its columns is edited where it lies."""
    kernel, keys, values, c = (x[0] for x in inputs(rng))
    kernel, values = (jnp.tile(x, (1, 4)) for x in (kernel, values))
    more = (2.0,) if make is kis.edit_batch else ()
    whitener = kis.whitener(c)

    def edit(kernel, values):
        return make(kernel, keys, values, whitener, *more).apply(kernel)

    mesh = jax.make_mesh((4,), ("model",), devices=jax.devices()[:4])
    spec = PartitionSpec(None, "model")
    sharded = jax.jit(jax.shard_map(edit, mesh=mesh, in_specs=spec, out_specs=spec))
    given = [jax.device_put(x, jax.NamedSharding(mesh, spec)) for x in (kernel, values)]
    np.testing.assert_allclose(sharded(*given), edit(kernel, values), rtol=1e-4, atol=1e-4)
    text = sharded.lower(*given).compile().as_text()
    assert not any(word in text for word in ("all-reduce", "all-gather", "all-to-all", "permute"))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "name", [name for name in FUNCTIONS if name.startswith("edit")] + ["forecast", "interference"]
)
def test_gradients_through_kernel_keys_values_and_c(rng, name):
    """Against differences of the function itself, in a random direction."""
    arguments = [x[0].astype(jnp.float64) for x in inputs(rng)]
    steps = [1e-6 * jnp.asarray(rng.normal(size=x.shape)) for x in arguments]
    steps[3] = 0.1 * (steps[3] + steps[3].T)  # C stays symmetric

    def loss(*arguments):
        leaves = jax.tree.leaves(FUNCTIONS[name](*arguments))
        return sum(jnp.sum(jnp.sin(leaf)) for leaf in leaves)

    gradients = jax.grad(loss, (0, 1, 2, 3))(*arguments)
    if name in ("edit_null_space", "edit_sequential, eigh"):
        # Eigenvectors of C turn by themselves; through them only the others are asked for.
        gradients, steps = gradients[:3], steps[:3]
    forward = [x + s for x, s in zip(arguments, steps, strict=False)] + arguments[len(steps) :]
    backward = [x - s for x, s in zip(arguments, steps, strict=False)] + arguments[len(steps) :]
    difference = loss(*forward) - loss(*backward)
    found = 2 * sum(jnp.vdot(g, s) for g, s in zip(gradients, steps, strict=True))
    np.testing.assert_allclose(found, difference, rtol=1e-5)
