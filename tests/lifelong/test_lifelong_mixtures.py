"""Plans and lifetimes of a mixture of experts, by command: what is foreseen is what happens."""

import json

import numpy as np
import pytest

from kis_jax.checkpoints.ledger_file import load_ledger
from tests.small_mixtures import CORPUS, FACTS, attributes, random_model, run, write

TEXT = ["--facts", FACTS, "--corpus", CORPUS, "--num-documents", 50]


@pytest.fixture(scope="module")
def mixture(tmp_path_factory):
    config = attributes()
    return write(random_model(config), tmp_path_factory.mktemp("mixture"), config)


@pytest.mark.slow
def test_a_lifetime_moves_values_as_foreseen_and_is_taken_up(mixture, tmp_path):
    out = tmp_path / "life"

    def live(steps):
        result = run(
            *("lifelong", mixture, *TEXT, "--layer", 0, "--steps", steps, "--num-others", 6),
            *("--num-held-out", 5, "--method", "sequential,null-space"),
            *("--set", "target.steps=5", "--set", "null_space=0.05", "--out", out),
        )
        assert result.exit_code == 0, result.output or result.exception
        return json.loads((out / "lifelong.json").read_text())

    record = live("1,4")
    assert len(record["methods"]) == 2 and record["token_count"] > 500
    for method in record["methods"]:
        for point in method["checkpoints"]:
            for kind, found in point["interference"].items():
                small = found["error"] is None
                assert small or found["error"] < 1e-4, (method["method"], kind, found)
        last = method["checkpoints"][-1]["interference"]["other_facts"]
        assert last["count"] == 6 and last["measured"] > 1e-3
    before = (out / "lifelong.json").read_bytes()
    live("1,4")
    assert (out / "lifelong.json").read_bytes() == before


@pytest.mark.slow
def test_a_plan_foresees_what_an_edit_then_does(mixture, tmp_path):
    result = run(
        *("plan", mixture, *TEXT, "--num-facts", 4, "--num-others", 6, "--layers", "0"),
        *("--num-rehearsed", 0, "--set", "target.steps=5", "--out", tmp_path / "plan"),
    )
    assert result.exit_code == 0, result.output or result.exception
    (layer,) = json.loads((tmp_path / "plan" / "plan.json").read_text())["layers"]
    result = run(
        *("edit", mixture, *TEXT, "--num-facts", 4, "--layer", 0, "--method", "constrained"),
        *("--second-moments", tmp_path / "plan" / "second_moments"),
        *("--set", "target.steps=5", "--set", "target.prefixed=false", "--out", tmp_path / "out"),
    )
    assert result.exit_code == 0, result.output or result.exception
    ledger = load_ledger(tmp_path / "out")
    shares = np.array([ledger.shares(0, row)[1] for row in range(4)])
    off = np.abs(shares[~np.eye(4, dtype=bool)])
    assert layer["superposition"]["max"] == pytest.approx(off.max(), rel=1e-4)
    assert layer["superposition"]["mean"] == pytest.approx(off.mean(), rel=1e-4)
    kept = {method["method"]: method["kept"] for method in layer["methods"]}
    # Not of a fact that is said already.
    asked = ledger.layers[0].asked.initial_residuals.any(axis=1)
    assert kept["constrained"] == pytest.approx(asked.mean(), abs=1e-6) and asked.sum() > 1
    assert all(method["displacement"] > 0 for method in layer["methods"])
