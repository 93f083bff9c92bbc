"""A model of which no settings are known finds its own, before it is edited for the first time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kis_jax.core.geometry.second_moment import SecondMoment
    from kis_jax.data.facts import Fact
    from kis_jax.edit.inputs import EditInputs, EditRequest
    from kis_jax.lifelong.inputs import LifelongRequest
    from kis_jax.models import Model
    from kis_jax.passes.inputs import ScanInputs
    from kis_jax.plan.inputs import PlanRequest

_BUDGET = 300.0  # seconds, with five layers in the first round
_ASKED = 64  # facts, of which a model that can be tried knows one at least


def pilot_first(
    inputs: ScanInputs | EditInputs,
    model: Model,
    moments: SecondMoment,
    edited: Sequence[Fact],
    request: EditRequest | PlanRequest | LifelongRequest,
    *,
    bound: bool = False,
) -> bool:
    """Runs the pilot of `kis tune`, if settings are to be the model's own and none are known.

    Facts of subjects that are edited are not in it. What it finds is kept where `--settings auto`
    looks; where nothing can be found, a line says so, and settings go by rule.

    Args:
      inputs: of the command.
      model: of the inputs.
      moments: second moments of its keys, at all layers.
      edited: facts that are to be edited.
      request: of the command; settings, or a token, that it names are a choice of its own.
      bound: whether it is bound to a layer in another way.

    Returns:
      Whether there are settings now that there were not, so that inputs are to be opened anew.
    """
    import dataclasses
    import time

    import numpy as np

    from kis_jax.data.facts import WORLD, facts_fingerprint, read_facts
    from kis_jax.models import Decoder
    from kis_jax.passes.scores.recall import recall
    from kis_jax.passes.targets.chosen import AUTO, RULE, chosen_settings, tuned_file
    from kis_jax.passes.targets.settings import shipped_settings
    from kis_jax.tune import console, run

    fingerprint = inputs.fingerprints["model"]
    chosen = bound or request.settings != AUTO or request.changes or request.position
    if chosen or not isinstance(model, Decoder) or model.config.experts:
        return False
    if tuned_file(fingerprint).is_file() or shipped_settings(fingerprint):
        return False
    began = time.monotonic()
    subjects = {fact.subject.strip() for fact in edited}
    facts = [fact for fact in read_facts(WORLD) if fact.subject.strip() not in subjects]
    some = np.random.default_rng(0).permutation(len(facts))[:_ASKED]
    if not any(recall(model, inputs.tokenizer, [facts[place] for place in some])):
        console.print_no_pilot(f"it knows none of {len(some)} facts of the world")
        return False
    console.print_first_pilot(_BUDGET)
    changes: dict[str, Any] = {
        "request": dataclasses.replace(inputs.request, facts=WORLD),
        "facts": facts,
        "fingerprints": {**inputs.fingerprints, "facts": facts_fingerprint(facts)},
    }
    asked = dataclasses.replace(inputs, **changes)
    try:
        record = run.tune(
            *(asked, model, moments, chosen_settings(inputs.config, source=RULE)),
            budget=_BUDGET,
            began=began,
            on_trial=console.print_trial,
        )
        found = run.keep_settings(record)
    except ValueError as error:
        console.print_no_pilot(str(error))
        return False
    console.print_tuned(record, found)
    return True
