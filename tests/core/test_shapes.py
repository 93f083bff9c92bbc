"""The shapes in signatures of the core: there for every public name, and true."""

import functools
import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from beartype import BeartypeConf, beartype
from jaxtyping import TypeCheckError, jaxtyped

import kis_jax.core as kc

SHAPED = re.compile(r"\w+\[(?:Array|ArrayLike), '([^']*)'\]")  # as annotations are kept


def public():
    """The functions and methods behind all public names."""
    found = {}
    for name in kc.__all__:
        thing = getattr(kc, name)
        if inspect.isclass(thing):
            for part, method in vars(thing).items():
                method = getattr(method, "__func__", getattr(method, "fget", method))
                ours = getattr(method, "__module__", "").startswith("kis_jax.core")
                if inspect.isfunction(method) and ours and not part.startswith("_"):
                    found[f"{name}.{part}"] = method
        elif callable(thing):
            found[name] = inspect.unwrap(thing)
    return found


def is_called(name, function):
    """Whether it has arrays to be checked; those of `blocked` lie on a mesh, see test_sharded."""
    abstract = getattr(function, "__isabstractmethod__", False)
    shapes = any(SHAPED.search(text) for text in function.__annotations__.values())
    return shapes and not abstract and not name.lower().startswith("blocked")


PUBLIC = public()

# No two sizes alike: facts, others, width of keys and of values.
N, Q, D, M = 3, 2, 4, 5
DRAWN = np.random.default_rng(0).normal(size=(N, D)).astype(np.float32)
KEYS, OTHERS, KEY = (jnp.asarray(rows) for rows in (DRAWN, DRAWN[:Q], DRAWN[0]))
VALUES, VALUE = jnp.ones((N, M)), jnp.ones(M)
KERNEL, C, P = jnp.zeros((D, M)), jnp.eye(D), jnp.asarray(DRAWN @ DRAWN.T)
PART, FLAGS, ONE, RNG = jnp.arange(Q), jnp.ones(N, bool), jnp.ones(()), jax.random.key(0)
SPACE, FREE = kc.Identity(D), kc.NullSpace(C)
CHOLESKY, ASKED = kc.CholeskyWhitener(KEY**2, C), kc.Asked(KEYS, KEYS, VALUES)
EARLIER, BLOCK = kc.Earlier(OTHERS, KEY[:Q]), (KEYS, KEYS)
EDIT, SAMPLE = kc.Edit(KEYS, VALUES, VALUES), kc.Moments(*[KEY] * 5)
EDITOR = kc.Editor(
    KERNEL,
    SPACE,
    kc.Sequential(),
    KEYS,
    KEYS[:, 0],
    KEYS,
    KEYS[:, 0],
    VALUES,
    VALUES,
    jnp.asarray(0),
)
SUMMARY = kc.Summary(kc.Moments(*[ONE] * 5), PART, KEY, PART[0], PART[None], KEY)
MOMENT = kc.SecondMoment(C, jnp.asarray(9))
SPACES = {
    "Identity": SPACE,
    "NullSpace": FREE,
    "Restricted": kc.Restricted(SPACE, FREE),
    "CholeskyWhitener": CHOLESKY,
    "RefinedWhitener": kc.RefinedWhitener(KEY**2, C, C),
    "PseudoInverse": kc.PseudoInverse(C),
}
RULES = {"Sequential": kc.Sequential(), "Constrained": kc.Constrained(ONE), "Ridge": kc.Ridge(ONE)}

# Arguments of each, in the order of the signature.
LIVE = kc.LiveWhitener(CHOLESKY.scale, CHOLESKY.factor)
CASES = {
    "gram": (KEYS, SPACE),
    "superposition": (KEYS, SPACE, OTHERS),
    "cosine_similarity": (KEYS, None),
    "angles": (KEYS, None),
    "off_diagonal_moments": (P,),
    "summarize": (KEYS, SPACE, 2, KEY, 1, jnp.arange(N), FLAGS),
    "Summary.tail_index": (SUMMARY,),
    "Summary.effective_pairs": (SUMMARY,),
    "edit_rank_one": (KERNEL, KEY, VALUE, SPACE),
    "edit_sequential": (KERNEL, KEYS, VALUES, SPACE),
    "edit_constrained": (KERNEL, KEYS, VALUES, SPACE, 0.1),
    "edit_batch": (KERNEL, KEYS, VALUES, SPACE, ONE, OTHERS),
    "edit_null_space": (KERNEL, KEYS, VALUES, C, 1.0, OTHERS),
    "Editor.init": (kc.Editor, KERNEL, SPACE, N),
    "Editor.add": (EDITOR, KEY, VALUE),
    "Editor.undo": (EDITOR, PART[0]),
    "Editor.take": (EDITOR, PART),
    "Editor.drop": (EDITOR, FLAGS),
    "Rule.gain": (kc.Sequential(), KEY),
    "Ridge.before": (RULES["Ridge"], *BLOCK, EARLIER),
    "Ridge.gain": (RULES["Ridge"], KEY),
    "ridge": (0.0, ONE),
    "Asked.take": (ASKED, PART),
    "Asked.superposition": (ASKED,),
    "replay": (ASKED, "batch", ONE),
    "foresee": (P, VALUES[:Q], "batch", 1.0),
    "independent": (ASKED, 0.1),
    "interference": (EDIT, OTHERS),
    "interference_on_edited": (EDIT, KEYS),
    "forecast": (P, VALUES, KEYS),
    "Edit.delta": (EDIT,),
    "Edit.apply": (EDIT, KERNEL),
    "reorder": (EDIT, KEYS, PART),
    "whitener": (C, ONE),
    "Whitener.condition": (CHOLESKY,),
    "Whitener.rank": (CHOLESKY,),
    "Space.whiten": (SPACE, KEYS),
    "Space.solve": (SPACE, KEYS),
    "PseudoInverse.condition": (SPACES["PseudoInverse"],),
    "null_space": (C,),
    "SecondMoment.update": (MOMENT, KEYS, FLAGS),
    "SecondMoment.mean": (MOMENT,),
    "moments": (KEYS, 0, FLAGS[:, None]),
    "Moments.variance": (SAMPLE,),
    "Moments.skewness": (SAMPLE,),
    "Moments.kurtosis": (SAMPLE,),
    "Moments.moved": (SAMPLE, KEY),
    "kurtosis_interval": (RNG, P, 4),
    "kurtosis_convergence": (RNG, P, (N,), 4),
    "bulk": (P, D, P > 0),
    "kurtosis_at_rank": (P, D, VALUE),
    "isotropic_superposition": (RNG, KEY, D),
    "tail_index": (KEYS, 2),
    "gaussian_density": (KEYS, VALUE, FLAGS[:, None]),
    "effective_rank": (C,),
    "inverse_residual": (C, SPACE),
    "shrink": (MOMENT, 9),
    "fit_power_law": (KEY**2, KEY**2),
    "solve_iteratively": (lambda rows: rows, KEYS, KEY**2),
    "Precision.whitener": (kc.DEVICE, C),
    "live_whitener": (C,),
    "LiveWhitener.second_moment": (LIVE, KEY),
    "LiveWhitener.rank": (LIVE,),
}
for of, rule in RULES.items():
    CASES[f"{of}.left"] = (rule, *BLOCK, EARLIER)
for of, space in SPACES.items():
    CASES |= {f"{of}.coordinates": (space, KEYS), f"{of}.directions": (space, KEYS)}
    if f"{of}.second_moment" in PUBLIC:
        CASES[f"{of}.second_moment"] = (space, KEY)
    if f"{of}.rank" in PUBLIC:
        CASES[f"{of}.rank"] = (space,)


@functools.cache
def checked(name):
    return jaxtyped(typechecker=beartype(conf=BeartypeConf(is_pep484_tower=True)))(PUBLIC[name])


def call(name, arguments):
    """Traces the checked function, which compiles nothing."""
    parameters = inspect.signature(PUBLIC[name]).parameters.values()
    given = list(zip(parameters, arguments, strict=False))
    plain = [value for of, value in given if of.kind is not of.KEYWORD_ONLY]
    named = {of.name: value for of, value in given if of.kind is of.KEYWORD_ONLY}
    jax.eval_shape(lambda: checked(name)(*plain, **named))


def shared_axes(name, arguments):
    """Each axis whose size another axis of the arguments has to have: (place, axis from behind)."""
    names = {}
    for place, (parameter, value) in enumerate(
        zip(inspect.signature(PUBLIC[name]).parameters.values(), arguments, strict=False)
    ):
        found = SHAPED.search(str(parameter.annotation))
        if found and getattr(value, "ndim", 0):
            for axis, size in enumerate(reversed(found[1].split()), 1):
                names.setdefault(size, []).append((place, -axis))
    return [
        at for size, places in names.items() if len(places) > 1 and "*" not in size for at in places
    ]


@pytest.mark.parametrize("name", PUBLIC)
def test_every_array_in_a_signature_has_its_shape(name):
    for parameter, text in PUBLIC[name].__annotations__.items():
        bare = re.findall(r"\b(?:Array|ArrayLike)\b", SHAPED.sub("", text))
        assert not bare, f"{parameter}: expected a shape, found {text}"


def test_all_of_them_are_called_here():
    assert set(CASES) == {name for name, function in PUBLIC.items() if is_called(name, function)}


@pytest.mark.parametrize("name", CASES)
def test_shapes_are_those_that_come_and_go(name):
    call(name, CASES[name])
    for place, axis in shared_axes(name, CASES[name]):
        wrong = list(CASES[name])
        wrong[place] = jnp.repeat(wrong[place], 2, axis)
        with pytest.raises(TypeCheckError):
            call(name, wrong)


def test_axes_shared_are_found():
    """Else nothing above would be wrong on purpose."""
    found = shared_axes("edit_sequential", CASES["edit_sequential"])
    assert sorted(found) == [(0, -2), (0, -1), (1, -2), (1, -1), (2, -2), (2, -1)]
    assert sum(bool(shared_axes(name, given)) for name, given in CASES.items()) > 20
