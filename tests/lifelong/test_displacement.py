"""How far values were moved, in numbers that compare across layers."""

import numpy as np
import pytest

from kis_jax.lifelong.displacement import displacement


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


def test_a_key_of_which_nothing_was_asked_is_left_out():
    measured, scale = np.array([[3.0, 4.0], [0.0, 1.0]]), np.array([10.0, 0.0])
    told = displacement(measured, measured, scale)
    assert told["count"] == 1 and told["measured"] == told["largest"] == pytest.approx(0.5)
    assert told["error"] == 0
    assert displacement(measured, measured, 0 * scale)["count"] == 0
