import numpy as np
import pytest

from kis_jax.compare.evidence import layer_evidence


def fact(subject, relation, duplicate_of=None):
    return {"subject": subject, "relation": relation, "duplicate_of": duplicate_of}


@pytest.fixture(scope="module")
def told():
    """Forty unrelated facts, of which two pairs collide, and a fact that is there twice."""
    facts = [fact(f"name{n}", f"P{n}") for n in range(40)]
    facts[1], facts[3] = fact("name0 too", "P1"), fact("name3", "P2")
    facts.append(fact("name0", "P0", duplicate_of=0))
    p = np.eye(41) + np.random.default_rng(0).uniform(-0.01, 0.01, (41, 41))
    p[0, 40] = p[40, 0] = 1.0
    p[0, 1], p[3, 2] = 0.9, -0.8
    whitened, plain = np.eye(41), np.full((41, 41), np.cos(np.radians(70)))
    whitened[2, 3] = np.cos(np.radians(45))
    arrays = {"superposition": p, "whitening_cosine": whitened, "activation_cosine": plain}
    return layer_evidence(arrays, facts)


def test_the_strongest_pairs_are_counted_without_the_repeated_fact(told):
    assert told["related"] == pytest.approx(2 / 20)
    assert told["related_by_chance"] == pytest.approx(2 / (40 * 39 / 2))


def test_angles(told):
    pairs = 40 * 39 / 2
    assert told["angle_mean_whitening"] == pytest.approx(90 - 45 / pairs)
    assert told["share_near_right_whitening"] == pytest.approx(1 - 1 / pairs)
    assert told["angle_mean_activation"] == pytest.approx(70)
    assert told["angle_std_activation"] == pytest.approx(0, abs=1e-6)
    assert told["share_near_right_activation"] == 0


def test_entries_that_are_not_zero(told):
    assert 0.95 < told["share_not_zero"] <= 1


def test_the_interval_holds_the_mean_and_leaves_the_diagonal_out(told):
    assert -0.003 < told["mean_low"] < (0.9 - 0.8) / (40 * 39) < told["mean_high"] < 0.005
