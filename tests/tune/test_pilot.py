"""How a pilot spends its time and chooses, with layers whose edits are made up."""

import dataclasses
import itertools

import numpy as np
import pytest

from kis_jax.passes.targets.settings import edit_settings
from kis_jax.tune import pilot
from kis_jax.tune.pilot import LEVELS, OutOfTimeError, Trial, run_pilot


def trial(settings, num_edits, facts, efficacy, paraphrase, lost):
    full = np.ones(facts)
    return Trial(
        settings, num_edits, efficacy * full, paraphrase * full, (1 - lost) * full, lost * full,
        text=0.0, seconds=1.0,
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
        *(layers, []),
        seconds_left=left,
    )


def test_the_best_layer_gets_most_facts_and_bounds_decide_the_strength(monkeypatch, embedded):
    quality = {0: (1.0, 0.9, 0.4), 2: (1.0, 0.9, 0.08), 4: (0.6, 0.9, 0.0)}
    found = run(monkeypatch, embedded, quality, [4, 2, 0])
    settings = found.settings
    assert settings.layer == 2 and settings.layers == (2,)
    # .9 would lose .08 of the neighborhood, which costs more than its paraphrases are worth.
    assert settings.target.stop_at == settings.batch_target.stop_at == 0.7
    assert settings.weight == 0.15 and settings.null_ridge == 0.02
    alone = [one for one in found.trials if one.num_edits == 1]
    asked = {(one.settings["layer"], len(one.efficacy)) for one in alone}
    assert asked == {(0, 8), (2, 8), (4, 8), (2, 24)}
    assert "the best of 3 layers on 24 known facts" in found.why


def test_a_model_that_cannot_be_edited_and_a_time_that_is_up(monkeypatch, embedded):
    with pytest.raises(ValueError, match=r"no better than chance at each \(layer 1 0.25; layer 3"):
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
    assert record["lost"] == pytest.approx(0.13) and record["text"] == 0.0
