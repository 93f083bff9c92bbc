"""The shapes in signatures of the core: there for every public name, and true."""

import functools
import inspect
import re

import jax
import jax.numpy as jnp
import pytest
from beartype import BeartypeConf, beartype
from jaxtyping import TypeCheckError, jaxtyped

from tests.core.cases import CASES, PUBLIC, SHAPED, is_called


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
