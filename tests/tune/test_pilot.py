"""How a pilot spends its time and chooses, with layers whose edits are made up."""

import dataclasses
import itertools
import time

import numpy as np
import pytest

from kis_jax.passes.targets.settings import edit_settings
from kis_jax.tune import pilot
from kis_jax.tune.bench import LEVELS, Trial, gentlest
from kis_jax.tune.pilot import NoLayerError, OutOfTimeError, run_pilot


def trial(settings, num_edits, facts, efficacy, paraphrase, lost):
    full = np.ones(facts)
    return Trial(
        settings, num_edits, efficacy * full, paraphrase * full, (1 - lost) * full, lost * full,
        damage=0.0, seconds=1.0,
    )  # fmt: skip


def bench(quality):
    """A class of benches: `quality[layer]` is efficacy, paraphrase and loss at full strength."""

    class Made:
        def __init__(self, model, tokenizer, facts, layer, *rest):
            self.layer, self.facts = layer, facts

        def alone(self, level):
            efficacy, paraphrase, lost = quality[self.layer]
            part = (level + 1) / len(LEVELS)
            named = {"layer": self.layer, "target.stop_at": LEVELS[level]}
            return trial(named, 1, len(self.facts), efficacy, part * paraphrase, part * lost)

        def together(self, level, method, settings):
            named = {"layer": self.layer, "target.stop_at": LEVELS[level], "method": method}
            lost = {"batch": abs(settings.weight - 0.15), "null-space": settings.null_ridge}
            named |= {"weight": settings.weight} if method == "batch" else {}
            if method == "null-space":
                named |= {"null_space": settings.null_space, "null_ridge": settings.null_ridge}
            return trial(named, 10, 10, 1.0, 0.8, lost.get(method, 0.0))

    return Made


def run(monkeypatch, embedded, quality, layers, num_facts=30, left=lambda: 1e9):
    model, tokenizer = embedded
    monkeypatch.setattr(pilot, "Bench", bench(quality))
    width = model.config.mlp_width
    count = np.ones(model.config.num_layers, int)
    moments = type("Moments", (), {"total": np.zeros((len(count), width, width)), "count": count})
    return run_pilot(
        *(model, tokenizer, list(range(num_facts)), moments, edit_settings(model.config)),
        [(layer, float(place)) for place, layer in enumerate(layers)],
        seconds_left=left,
    )


def test_the_best_layer_gets_most_facts_and_bounds_decide_the_strength(monkeypatch, embedded):
    quality = {0: (1.0, 0.9, 0.4), 2: (1.0, 0.9, 0.08), 4: (0.6, 0.9, 0.0)}
    found = run(monkeypatch, embedded, quality, [4, 2, 0])
    settings = found.settings
    assert settings.layer == 2 and settings.layers == (2,)
    # .9 would lose .08 of the neighborhood, which costs more than its paraphrases are worth.
    assert settings.target.stop_at == settings.batch_target.stop_at == LEVELS[2]
    assert settings.weight == 0.15 and settings.null_ridge == 0.005
    alone = [one for one in found.trials if one.num_edits == 1]
    asked = {(one.settings["layer"], len(one.efficacy)) for one in alone}
    assert {8, 24, 30} == {number for layer, number in asked if layer == 2}
    assert {layer for layer, number in asked if number == 8} == {0, 2, 4}
    assert len([number for _, number in asked if number == 24]) == 2
    assert "the best of 3 layers on 30 known facts" in found.why


def test_layers_that_promise_less_are_left_out_and_those_beside_the_best_tried(
    monkeypatch, embedded
):
    """Two worse ones in a row end the first round, and the second looks beside the best."""
    lost = {0: 0.3, 1: 0.2, 2: 0.0, 3: 0.2, 4: 0.3, 5: 0.9}
    quality = {layer: (1.0, 0.9, loss) for layer, loss in lost.items()}
    model, tokenizer = embedded
    monkeypatch.setattr(pilot, "Bench", bench(quality))
    costs = [(0, 1.0), (1, 5.0), (2, 0.5), (3, 5.0), (4, 3.0), (5, 4.0)]
    count = np.ones(6, int)
    moments = type("Moments", (), {"total": np.zeros((6, 512, 512)), "count": count})
    found = run_pilot(
        *(model, tokenizer, list(range(8)), moments, edit_settings(model.config), costs),
        seconds_left=lambda: 1e9,
    )
    tried = [one.settings["layer"] for one in found.trials if one.num_edits == 1]
    assert list(dict.fromkeys(tried)) == [2, 0, 4, 1, 3] and found.settings.layer == 2


def test_a_model_that_cannot_be_edited_and_a_time_that_is_up(monkeypatch, embedded):
    with pytest.raises(NoLayerError, match=r"of 0.50 at most \(layer 1 0.25; layer 3 0.50\)"):
        run(monkeypatch, embedded, {1: (0.25, 0.1, 0.0), 3: (0.5, 0.1, 0.0)}, [3, 1])
    with pytest.raises(OutOfTimeError):
        run(monkeypatch, embedded, {}, [])
    # After the first layer there is no time for another: what is known is used.
    clock = itertools.chain([0.0], itertools.repeat(-1.0))
    found = run(
        *(monkeypatch, embedded, {3: (1.0, 0.9, 0.0), 1: (1.0, 1.0, 0.0)}, [3, 1]),
        left=lambda: next(clock),
    )
    assert found.settings.layer == 3


def test_a_score_falls_by_what_passes_the_bounds():
    within = trial({}, 1, 4, 1.0, 0.8, 0.03)
    beyond = dataclasses.replace(within, lost=within.lost + 0.1, neighborhood=within.neighborhood)
    assert beyond.score == pytest.approx(within.score - 0.5)
    nothing = trial({}, 1, 4, 0.0, 0.8, 0.0)
    assert nothing.score == 0
    record = beyond.record()
    assert record["lost"] == pytest.approx(0.13) and record["damage"] == 0.0


def test_few_facts_of_which_some_lose_much_stay_below_the_bound_by_an_interval():
    """A mean loss within the bound is not enough: its interval's upper end counts."""
    even = trial({}, 1, 24, 1.0, 0.8, 0.025)
    one_pays = dataclasses.replace(even, lost=np.eye(24)[0] * 0.6)
    assert one_pays.lost.mean() == pytest.approx(even.lost.mean())
    error = one_pays.lost.std() / np.sqrt(24)
    assert one_pays.score == pytest.approx(even.score - 5 * (0.025 + 1.645 * error - 0.03))


def test_the_gentlest_that_facts_cannot_tell_from_the_best():
    best = trial({"at": 0.9}, 1, 24, 1.0, 0.8, 0.0)
    one_less = dataclasses.replace(best, settings={"at": 0.5}, paraphrase=best.paraphrase.copy())
    one_less.paraphrase[3] -= 0.5  # one fact of 24: no more than its own error
    assert gentlest([one_less, best]) is one_less
    many_less = dataclasses.replace(best, paraphrase=best.paraphrase - 0.2 * (np.arange(24) < 12))
    assert gentlest([many_less, best]) is best
    misses = dataclasses.replace(one_less, efficacy=1.0 - np.eye(24)[3])
    assert gentlest([misses, one_less, best]) is one_less
    assert gentlest([best, dataclasses.replace(best)]) is best  # of equals, the first


def test_as_many_facts_as_there_is_time_for(monkeypatch, embedded):
    class Slow(bench({0: (1.0, 0.9, 0.0), 2: (0.7, 0.9, 0.0)})):
        def __init__(self, model, tokenizer, facts, layer, settings, c, prefixes, earlier):
            super().__init__(model, tokenizer, facts, layer)
            clock[0] += len(facts) - (len(earlier.facts) if earlier else 0)

    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    model, tokenizer = embedded
    monkeypatch.setattr(pilot, "Bench", Slow)
    count = np.ones(3, int)
    moments = type("Moments", (), {"total": np.zeros((3, 8, 8)), "count": count})
    found = run_pilot(
        *(model, tokenizer, list(range(99)), moments, edit_settings(model.config)),
        [(0, 1.0), (2, 2.0)],
        seconds_left=lambda: 90.0 - clock[0],
    )
    # Sixteen seconds for eight facts at both, 32 for sixteen more: 42 are left, 8 of them kept.
    alone = [one for one in found.trials if one.num_edits == 1]
    sizes = [(one.settings["layer"], len(one.efficacy)) for one in alone[:: len(LEVELS)]]
    assert sizes == [(0, 8), (2, 8), (0, 24), (2, 24), (0, 24 + 22)]
