import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from kis_jax.lifelong.lifetime_figures import write_lifetime_figures, write_lifetimes
from kis_jax.lifelong.lifetimes import compare_lifetimes, crossing, rank_correlation

STEPS = (1, 10, 100)


@given(st.lists(st.integers(0, 4), min_size=3, max_size=6), st.randoms(use_true_random=False))
def test_rank_correlation_is_that_of_scipy(numbers, random):
    x, y = np.array(numbers, float), np.array(numbers, float)
    random.shuffle(y)
    rho, probability = rank_correlation(x, y)
    if len(set(numbers)) == 1:
        assert rho is None and probability is None
        return
    assert rho == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-9)
    assert 1 / np.prod(np.arange(1, len(x) + 1)) <= probability <= 1


def test_the_probability_is_exact():
    # Of the six orders of three, the same one and its reverse are as far from 0.
    assert rank_correlation(np.arange(3.0), np.arange(3.0)) == (1, pytest.approx(2 / 6))


@pytest.mark.parametrize(
    ("values", "limit", "expected"),
    [
        ([0.0, 0.2, 0.6], 0.4, 10**1.5),
        ([0.5, 0.6, 0.7], 0.4, 1),
        ([0.0, 0.1, 0.2], 0.4, None),
        ([0.5, 0.1, 0.7], 0.4, 10**1.5),  # above, below again, above to the end
        ([0.5, 0.7, 0.4], 0.4, None),
        ([0.0, None, None], 0.4, 10),  # beyond all numbers
    ],
)
def test_crossing(values, limit, expected):
    assert crossing(STEPS, values, limit) == (
        expected if expected is None else pytest.approx(expected)
    )


def run_of(decay):
    """Linear decay; collapse at the first checkpoint with half of all lost."""

    def checkpoint(edits):
        moved = {"measured": decay * edits, "predicted": 1.1 * decay * edits, "error": 1e-7}
        score = {"mean": 1 - decay * edits / 2, "low": 0.0, "high": 1.0}
        return {
            "edits": edits,
            "perplexity": None,
            "metrics": {"efficacy": score, "neighborhood": score},
            "interference": {name: moved for name in ("edited", "other_facts", "text")},
        }

    points = [checkpoint(edits) for edits in (1, 10, 20, 50, 100)]
    dead = [point["edits"] for point in points if decay * point["edits"] > 0.5]
    collapse = {"edits": dead[0], "signs": [{"metric": "efficacy"}]} if dead else None
    return {
        "layer": 1,
        "methods": [{"method": "sequential", "collapse": collapse, "checkpoints": points}],
    }


def scan_of(width):
    shape = {"width": width, "key_dimension": 4 * width, "num_parameters": width**2}
    return {"architecture": shape, "layers": [{"layer": 1, "kurtosis": float(width)}]}


def models(decays):
    return [
        (f"width {64 * n}", scan_of(64 * n), run_of(decay)) for n, decay in enumerate(decays, 1)
    ]


def test_lives_are_where_half_is_lost_and_ranked(tmp_path):
    record = compare_lifetimes(models([0.04, 0.02, 0.006, 0.001]), "sequential")
    first, *_, last = record["models"]
    # 0.02 x edits passes 0.25, for efficacy, and 0.044 x edits passes 0.5, by the forecast.
    assert 10 < first["efficacy_lost"] < 20 and 10 < first["foreseen"] < 20
    assert first["measured"] == 20 and first["signs"] == ["efficacy"]
    assert last["measured"] is None and last["foreseen"] is None
    assert first["growth"]["text"]["exponent"] == pytest.approx(1)
    assert [found["correlation"] for found in record["ranks"]] == [1, 1, 1]
    assert record["ranks"][0]["outlived"] == 1
    write_lifetimes(tmp_path, record)
    assert json.loads((tmp_path / "lifetimes.json").read_text()) == record
    pictures = {path.name: path.read_bytes() for path in write_lifetime_figures(tmp_path)}
    again = {path.name: path.read_bytes() for path in write_lifetime_figures(tmp_path)}
    assert pictures == again and set(pictures) == {"interference.png", "lifetimes.png"}


def test_runs_that_cannot_be_compared_are_refused():
    with pytest.raises(ValueError, match="method: expected one that was run, found 'batch'"):
        compare_lifetimes(models([0.1]), "batch")
    with pytest.raises(ValueError, match="models: expected one"):
        compare_lifetimes([], "sequential")
    two = models([0.1, 0.1])
    two[1][2]["methods"][0]["checkpoints"].pop()
    with pytest.raises(ValueError, match="models: expected runs of the same steps"):
        compare_lifetimes(two, "sequential")
