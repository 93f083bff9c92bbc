"""Broken numbers are recorded; what is wrong with a fact ends the run."""

import numpy as np
import pytest

from kis_jax.lifelong.checks import _unless_broken
from kis_jax.lifelong.courses import GradientCourse
from kis_jax.passes.not_finite import NotFiniteError


def raising(error):
    def fail(*_):
        raise error

    return fail


def test_a_loss_that_is_not_finite_leaves_its_block_out():
    course = GradientCourse(np.ones((2, 3)), raising(NotFiniteError("found inf")))
    course.advance(slice(2, 4))
    assert course.left_out == {2: "found inf", 3: "found inf"}
    np.testing.assert_array_equal(course.kernel, 1)
    assert _unless_broken(raising(NotFiniteError("found NaN")), 7) == 7


def test_other_errors_are_not_taken_for_a_broken_model():
    bad = ValueError("fact 7: expected a prompt of at most 96 tokens")
    course = GradientCourse(np.ones((2, 3)), raising(bad))
    with pytest.raises(ValueError, match="fact 7"):
        course.advance(slice(0, 1))
    assert course.left_out == {}
    with pytest.raises(ValueError, match="fact 7"):
        _unless_broken(raising(bad), None)
