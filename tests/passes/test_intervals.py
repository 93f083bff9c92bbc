import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from kis_jax.passes.intervals import harmonic_mean, mean_intervals


def test_agrees_with_scipys_bootstrap(rng):
    values = rng.gamma(2.0, size=60)
    found = mean_intervals({"x": values})["x"]
    expected = stats.bootstrap(
        (values,), np.mean, n_resamples=5000, method="percentile", rng=rng
    ).confidence_interval
    width = expected.high - expected.low
    assert found["mean"] == pytest.approx(values.mean())
    assert abs(found["low"] - expected.low) < 0.1 * width
    assert abs(found["high"] - expected.high) < 0.1 * width


def test_facts_without_a_value_do_not_count(rng):
    values = rng.normal(size=30)
    with_gaps = np.concatenate([values, np.full(10, np.nan)])
    found = mean_intervals({"x": with_gaps})["x"]
    assert found["count"] == 30 and found["mean"] == pytest.approx(values.mean())


def test_facts_of_one_run_stand_together(rng):
    # Five runs that differ, facts within a run all alike: what counts is the number of runs.
    groups = np.repeat(np.arange(5), 40)
    values = rng.normal(size=5)[groups]
    alone = mean_intervals({"x": values})["x"]
    together = mean_intervals({"x": values}, groups=groups)["x"]
    spread = values[::40].std() / np.sqrt(5)
    width = (together["high"] - together["low"]) / (2 * 1.96)
    assert width == pytest.approx(spread, rel=0.15)
    assert alone["high"] - alone["low"] < 0.5 * (together["high"] - together["low"])


def test_of_one_group_it_is_the_plain_bootstrap(rng):
    values = rng.normal(size=50)
    plain = mean_intervals({"x": values})["x"]
    grouped = mean_intervals({"x": values}, groups=np.zeros(50, int))["x"]
    assert grouped["low"] == pytest.approx(plain["low"], abs=0.05)
    assert grouped["high"] == pytest.approx(plain["high"], abs=0.05)


def test_the_same_seed_gives_the_same_interval(rng):
    values = {"x": rng.normal(size=20)}
    assert mean_intervals(values, seed=3) == mean_intervals(values, seed=3)
    assert mean_intervals(values, seed=3) != mean_intervals(values, seed=4)


@settings(deadline=None)
@given(st.lists(st.floats(0.01, 1), min_size=1, max_size=5))
def test_harmonic_mean_equals_scipys(parts):
    found = harmonic_mean([np.array([part]) for part in parts])[0]
    assert found == pytest.approx(stats.hmean(parts))


def test_a_zero_makes_it_zero():
    assert harmonic_mean([np.array([0.0]), np.array([1.0])])[0] == 0.0
