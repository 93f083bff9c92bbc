"""Lifelong runs on the embedded model that take seconds: target values are made up, keys real."""

from pathlib import Path

import numpy as np

from kis_jax.data.prompts import tokenize_facts
from kis_jax.lifelong import layer as lifelong_layer
from kis_jax.lifelong import targets as lifelong_targets
from kis_jax.lifelong.inputs import LifelongRequest, open_lifelong
from kis_jax.lifelong.run import run_lifelong
from kis_jax.models.memory import memory_kernel
from kis_jax.passes.keys import fact_keys
from kis_jax.passes.measuring import measure_second_moments

LAYER = 2
SMALL = {
    "layer": LAYER,
    "num_documents": 400,
    "num_held_out": 12,
    "num_others": 30,
    "most_evaluated": 4,
}


def no_search(monkeypatch):
    """Makes up target values, and puts nothing before prompts."""
    monkeypatch.setattr(lifelong_targets, "target_values", made_up_targets)
    monkeypatch.setattr(lifelong_layer, "default_prefixes", lambda *_, **__: ("",))


class Found:
    """As much of `TargetValues` as a lifelong run looks at."""

    def __init__(self, keys, values, failures, initial):
        self.keys, self.values, self.failures = keys, values, failures
        self.prompt_keys, self.initial = keys, initial


def made_up_targets(model, tokenizer, facts, *, layer, token_budget, **settings):
    """Real keys, and values as far from what they are as v* tend to be: no optimisation."""
    del settings
    prompts = tokenize_facts(facts, tokenizer, context_length=model.config.context_length)
    keys = fact_keys(model, prompts, token_budget=token_budget)[layer]
    values = keys @ np.asarray(memory_kernel(model, layer))
    seeds = (np.random.default_rng(fact.case_id) for fact in facts)
    shifts = np.stack([seed.normal(size=values.shape[1]) for seed in seeds])
    shifts *= 2 * np.linalg.norm(values, axis=1, keepdims=True) / np.sqrt(shifts.shape[1])
    return Found(keys, (values + shifts).astype(np.float32), (None,) * len(facts), values)


def request(**changes):
    return LifelongRequest("factlm", "factlm", "factlm", **{**SMALL, **changes})


class Bench:
    """The embedded model and its second moments, for any number of runs."""

    def __init__(self, model, folder: Path):
        self.model = model
        self.folder = folder
        self.moments, _ = measure_second_moments(
            open_lifelong(request(steps=(1,))).scan, model, folder / "second_moments"
        )

    @property
    def second_moment(self):
        return self.moments.total[LAYER] / self.moments.count[LAYER]

    def run(self, directory, *, inputs=None, **changes):
        more = {name: changes.pop(name) for name in ("probe", "on_step") if name in changes}
        inputs = open_lifelong(request(**changes)) if inputs is None else inputs
        return run_lifelong(inputs, self.model, self.moments, directory, **more)
