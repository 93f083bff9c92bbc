"""Every public function of the core under every transform and kind of input that JAX users have."""

import functools
import inspect
import re
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from tests.core.cases import CASES, PUBLIC, N


def call(name, arguments):
    parameters = inspect.signature(PUBLIC[name]).parameters.values()
    given = list(zip(parameters, arguments, strict=False))
    plain = [value for of, value in given if of.kind is not of.KEYWORD_ONLY]
    named = {of.name: value for of, value in given if of.kind is of.KEYWORD_ONLY}
    return PUBLIC[name](*plain, **named)


def is_real(leaf):
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jnp.floating)


def resized(leaf, n):
    """An array with n facts along each axis that has the N of them; new ones unlike the old."""
    for axis, size in enumerate(getattr(leaf, "shape", ())):
        if size == N and n != N:
            leaf = jnp.take(leaf, jnp.arange(n, dtype=jnp.int32) % N, axis=axis)
            if is_real(leaf) and n > N:
                drawn = np.random.default_rng(axis).uniform(0.5, 1.5, leaf.shape)
                leaf = leaf * jnp.asarray(drawn, leaf.dtype)
    return leaf


def taken_apart(name, n=N):
    """A function of the floating-point arrays among the arguments, and these arrays."""
    leaves, structure = jax.tree.flatten(CASES[name])
    leaves = [resized(leaf, n) for leaf in leaves]
    real = [place for place, leaf in enumerate(leaves) if is_real(leaf)]

    def function(given):
        whole = list(leaves)
        for place, leaf in zip(real, given, strict=True):
            whole[place] = leaf
        return call(name, jax.tree.unflatten(structure, whole))

    return function, [leaves[place] for place in real]


def same(found, expected, **tolerance):
    tolerance = {"rtol": 2e-4, "atol": 2e-5, **tolerance}

    def compare(one, other):
        if not jnp.issubdtype(jnp.asarray(other).dtype, jax.dtypes.prng_key):
            np.testing.assert_allclose(np.float64(one), np.float64(other), **tolerance)

    jax.tree.map(compare, found, expected)


def reals(found):
    return [x for x in jax.tree.leaves(found) if jnp.issubdtype(jax.typeof(x).dtype, jnp.floating)]


def finite(found):
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in reals(found))


def total(function):
    return lambda given: sum(
        (jnp.sum(leaf.astype(jnp.float32)) for leaf in reals(function(given))), jnp.zeros(())
    )


def jitted(name):
    """Compiled, its arguments donated."""
    function, given = taken_apart(name)
    expected = function(given)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Some donated buffers were not usable")
        same(jax.jit(function, donate_argnums=0)([x.copy() for x in given]), expected)


def batched(name):
    function, given = taken_apart(name)
    if not given:  # nothing to be stacked
        return
    found = jax.vmap(function)([jnp.stack([x, x]) for x in given])
    expected = jax.tree.map(lambda leaf: jnp.stack([jnp.asarray(leaf)] * 2), function(given))
    same(found, expected)


def gradient(name):
    function, given = taken_apart(name)
    finite(jax.grad(total(function))(given))


def forward(name):
    """Traced, as what follows is: what goes wrong there goes wrong in types and shapes."""
    function, given = taken_apart(name)
    ones = [jnp.ones_like(x) for x in given]
    jax.eval_shape(lambda x: jax.jvp(total(function), (x,), (ones,)), given)


def scanned(name):
    function, given = taken_apart(name)

    def run(given):
        return jax.lax.scan(lambda carry, _: (carry, function(carry)), given, length=2)

    jax.eval_shape(run, given)


def checkpointed(name):
    function, given = taken_apart(name)
    jax.eval_shape(jax.grad(jax.checkpoint(total(function))), given)


def by_devices(name, check_vma=True):
    """A layer for each of two devices."""
    function, given = taken_apart(name)
    mesh = jax.make_mesh((2,), ("layers",), devices=jax.devices()[:2])
    spec = PartitionSpec("layers")

    def one(given):
        found = function([leaf[0] for leaf in given])
        return jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], found)

    run = jax.shard_map(one, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=check_vma)
    with jax.set_mesh(mesh):
        jax.eval_shape(
            run, jax.device_put([jnp.stack([x, x]) for x in given], NamedSharding(mesh, spec))
        )


def explicit(name):
    """Facts dealt out over an explicit axis, called plainly and compiled; states lie whole."""
    devices = jax.devices()[:2]
    mesh = jax.make_mesh((2,), ("facts",), devices=devices, axis_types=(AxisType.Explicit,))
    n = 6  # no other axis is as long
    given = jax.tree.map(lambda leaf: resized(leaf, n), CASES[name])
    facts = [id(leaf) for leaf in given if is_real(leaf) and leaf.shape[:1] == (n,)]
    leaves, structure = jax.tree.flatten(given)
    arrays = [place for place, leaf in enumerate(leaves) if isinstance(leaf, jax.Array)]

    def function(found):
        whole = dict(enumerate(leaves)) | dict(zip(arrays, found, strict=True))
        return call(name, jax.tree.unflatten(structure, list(whole.values())))

    expected = function([leaves[place] for place in arrays])
    placed = [
        jax.device_put(leaf, NamedSharding(mesh, PartitionSpec(*["facts"] * (id(leaf) in facts))))
        for leaf in (leaves[place] for place in arrays)
    ]
    with jax.set_mesh(mesh):
        same(function(placed), expected)
        same(jax.jit(function)(placed), expected)


def exports(name):
    """Written out for any number of facts, and read back for another than it was tried with."""
    (n,) = export.symbolic_shape("n")
    leaves, structure = jax.tree.flatten(CASES[name])
    arrays = [place for place, leaf in enumerate(leaves) if isinstance(leaf, jax.Array)]

    def of_arrays(found):
        whole = dict(enumerate(leaves)) | dict(zip(arrays, found, strict=True))
        return call(name, jax.tree.unflatten(structure, list(whole.values())))

    def symbolic(leaf):
        return jax.ShapeDtypeStruct([n if size == N else size for size in leaf.shape], leaf.dtype)

    made = export.export(jax.jit(of_arrays))([symbolic(leaves[place]) for place in arrays])
    read = export.deserialize(made.serialize())
    six = [resized(leaves[place], 6) for place in arrays]
    same(read.call(six), of_arrays(six))


def strict_ranks(name):
    function, given = taken_apart(name)
    with jax.numpy_rank_promotion("raise"):
        jax.eval_shape(function, given)


def wide(name):
    """In float64, all of it."""
    with jax.enable_x64(True):
        function, given = taken_apart(name)
        found = jax.eval_shape(function, [x.astype(jnp.float64) for x in given])
        dtypes = {leaf.dtype for leaf in jax.tree.leaves(found)}
        assert not dtypes & {jnp.dtype(jnp.float32), jnp.dtype(jnp.float16)}


def debugged(name):
    function, given = taken_apart(name)
    with jax.debug_nans(True):
        function(given)


def leaks(name):
    function, given = taken_apart(name)
    with jax.checking_leaks():
        jax.eval_shape(function, given)


def of_facts(change, *names):
    """A column: arguments with a row for each fact are changed, or those of these names alone."""

    def column(name):
        changed = list(CASES[name])
        parameters = inspect.signature(PUBLIC[name]).parameters
        for place, (parameter, leaf) in enumerate(zip(parameters, changed, strict=False)):
            rows = is_real(leaf) and leaf.shape[:1] == (N,)
            if rows and (not names or parameter in names):
                changed[place] = change(leaf)
        return (
            call(name, changed)
            if any(x is not y for x, y in zip(changed, CASES[name], strict=True))
            else None
        )

    return column


KEYS = ("keys", "key", "others", "previous")


# What comes from users, rather than from the engine, whose dtype is the space's.
GIVEN = (*KEYS, "values", "superposition", "initial_residuals", "gram", "matrix")


def narrow(name):
    finite(of_facts(lambda x: x.astype(jnp.bfloat16), *GIVEN)(name))


def whole_numbers(name):
    finite(of_facts(lambda x: jnp.round(4 * x).astype(jnp.int32) + 1, *GIVEN)(name))


def counts(n):
    def column(name):
        function, given = taken_apart(name, n)
        function(given)

    return column


def refused_or(check):
    """A column that also passes where the argument is refused in one line."""

    def checked(column):
        def run(name):
            try:
                found = column(name)
            except ValueError as error:
                assert ": expected" in str(error) and "\n" not in str(error)
            else:
                check(found)

        return run

    return checked


def says_nan(found):
    nan = found is None or any(bool(jnp.any(jnp.isnan(leaf))) for leaf in reals(found))
    assert nan, "no NaN, and no error"


def anything(_):
    """Whatever there is, it was no error."""


TRACED = {
    "jvp": forward,
    "scan": scanned,
    "checkpoint": checkpointed,
    "shard_map": by_devices,
    "shard_map unchecked": functools.partial(by_devices, check_vma=False),
    "strict ranks": strict_ranks,
    "float64": wide,
    "leaks": leaks,
}
RUN = {
    "jit": jitted,
    "vmap": batched,
    "grad": gradient,
    "explicit sharding": explicit,
    "export": exports,
    "debug_nans": debugged,
    "bfloat16": refused_or(anything)(narrow),
    "int32": refused_or(anything)(whole_numbers),
    "n = 0": refused_or(anything)(counts(0)),
    "n = 1": refused_or(anything)(counts(1)),
    "n = 2": refused_or(anything)(counts(2)),
    "a NaN row": refused_or(says_nan)(of_facts(lambda x: x.at[0].set(jnp.nan))),
    "a zero row": refused_or(anything)(of_facts(lambda x: x.at[0].set(0))),
    "times 1e-20": refused_or(finite)(of_facts(lambda x: x * 1e-20, *KEYS)),
    "times 1e20": refused_or(finite)(of_facts(lambda x: x * 1e20, *KEYS)),
}
COLUMNS = TRACED | RUN
PAGE = Path(__file__).parents[2] / "docs" / "sharp_bits.md"


def exceptions():
    """Of each function, the columns that the page says go wrong."""
    table = PAGE.read_text().split("| function | way |")[1]
    found = {}
    for functions, columns in re.findall(r"^\| (`[^|]*) \| ([^|]*) \|", table, re.MULTILINE):
        for name in re.findall("`([^`]*)`", functions):
            assert name in CASES, name
            found.setdefault(name, set()).update(columns.split(", "))
    return found


EXCEPTIONS = exceptions()


def test_the_page_names_every_way():
    ways = PAGE.read_text().split("| way | what must hold |")[1].split("| function |")[0]
    named = {
        way
        for cell in re.findall(r"^\| ([^|-][^|]*) \|", ways, re.MULTILINE)
        for way in ([cell] if cell in COLUMNS else cell.split(", "))
    }
    assert named == set(COLUMNS)
    assert set().union(*EXCEPTIONS.values()) <= set(COLUMNS)


def walk(name, columns):
    wrong = {}
    for column, run in columns.items():
        try:
            run(name)
        except Exception as error:
            wrong[column] = f"{type(error).__name__}: {error}"
    unnamed = {column: why for column, why in wrong.items() if column not in of(name)}
    assert not unnamed
    assert set(wrong) == of(name) & set(columns), "named in docs/sharp_bits.md, and goes well"


def of(name):
    return EXCEPTIONS.get(name, set())


@pytest.mark.parametrize("name", CASES)
def test_what_can_be_told_by_tracing(name):
    walk(name, TRACED)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_what_must_be_run(name):
    walk(name, RUN)


@pytest.mark.parametrize("name", ["superposition", "edit_sequential"])
def test_what_must_be_run_in_short(name):
    walk(name, RUN)
