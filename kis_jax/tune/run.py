"""The steps of `kis tune`: facts that the model knows, evidence, a pilot, a file of settings."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import itertools
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kis_jax.core.geometry.second_moment import SecondMoment
from kis_jax.core.geometry.spaces import Space
from kis_jax.data.continuations import Continuation
from kis_jax.data.corpora import tokenize_corpus
from kis_jax.data.facts import Fact
from kis_jax.edit.closed_forms import space_of
from kis_jax.models import Decoder, Model
from kis_jax.passes.inputs import ScanInputs
from kis_jax.passes.scores.recall import recall
from kis_jax.passes.targets.chosen import flat, tuned_file
from kis_jax.passes.targets.settings import EditSettings
from kis_jax.report.output_folder import refuse_foreign, write_json
from kis_jax.tune.evidence import LayerEvidence, layer_evidence
from kis_jax.tune.pilot import OutOfTimeError, Trial, run_pilot, spread

NAME = "settings.json"
_OURS = re.compile(r"settings\.json|report\.html|figures|second_moments|\..*\.partial(\.\w+)?")
_LOOKED_AT = 16  # layers of which evidence is taken, at most
_EVIDENT = 6  # facts of which it is taken
_TEXTS, _TEXT_LENGTH = 16, 64
_FEWEST = 4  # known facts, without which nothing can be told
_NEIGHBORS = 5  # prompts of each kind that a fact of the pilot brings, at most


def parse_budget(text: str) -> float:
    """Seconds from "10m", "90s", "1h" or "600".

    Raises:
      ValueError: if it is of no such form, or not positive.

    Example:
      >>> parse_budget("10m"), parse_budget("90")
      (600.0, 90.0)
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smh]?)\s*", text)
    seconds = float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]] if match else 0.0
    if not seconds > 0:
        raise ValueError(f"budget: expected a time such as 10m, 90s or 1h, found {text!r}")
    return seconds


def tune(
    inputs: ScanInputs,
    model: Model,
    moments: SecondMoment,
    settings: EditSettings,
    *,
    budget: float,
    began: float,
    seed: int = 0,
    on_trial: Callable[[Trial], None] = lambda trial: None,
) -> dict[str, Any]:
    """Finds settings for a model by a pilot; see `kis tune`.

    Args:
      inputs: model, tokenizer, corpus and facts.
      model: a decoder.
      moments: second moments of its keys.
      settings: what is not searched for.
      budget: seconds, from `began` on.
      began: when the command did, by `time.monotonic`.
      seed: of the choice of facts.
      on_trial: called after each trial.

    Returns:
      The content of the file of settings.

    Raises:
      ValueError: if the model knows too few of the facts, can be edited at none of the layers
        tried, or the budget is too small for one trial.
    """
    if not isinstance(model, Decoder):
        raise ValueError(f"model: expected a decoder, found {model.config.family}, an encoder")

    def left() -> float:
        return budget - (time.monotonic() - began)

    facts, known = _known(inputs, model, seed)
    _check_time(left, budget, "facts and second moments")
    count = {layer: int(moments.count[layer]) for layer in range(model.config.num_layers)}

    def space(layer: int) -> Space | None:
        c = np.asarray(moments.total[layer], np.float64) / count[layer]
        try:
            return space_of(c, "constrained", settings)
        except ValueError:
            return None

    most = min(_LOOKED_AT, model.config.num_layers)
    layers = np.unique(np.linspace(0, model.config.num_layers - 1, most).round().astype(int))
    evidence = layer_evidence(
        model, inputs.tokenizer, facts[:_EVIDENT], settings.target, space, layers.tolist()
    )
    costs = [(one.layer, one.cost) for one in evidence if np.isfinite(one.cost)]
    if not costs:
        raise ValueError(
            "model: expected a layer at which the token of a fact's key moves its target, found "
            f"none of {len(layers)}; try --position last"
        )
    _check_time(left, budget, "evidence of the layers")
    text = _text(inputs, model)
    try:
        pilot = run_pilot(
            model,
            inputs.tokenizer,
            facts,
            moments,
            settings,
            spread(costs, 5 if budget >= 300 else 3),
            text,
            seconds_left=left,
            on_trial=on_trial,
        )
    except OutOfTimeError:
        _check_time(lambda: 0.0, budget, "all that comes before an edit")
        raise
    return _record(inputs, pilot.settings, pilot.why, evidence, pilot.trials, facts, known) | {
        "budget": budget,
        "seconds": round(time.monotonic() - began, 1),
        "seed": seed,
    }


def check_tune_directory(directory: Path) -> None:
    """Refuses an output folder that holds anything but an earlier pilot."""
    refuse_foreign(directory, ours=_OURS, kind="settings that kis tune found")


def write_tuned_settings(directory: Path, record: Mapping[str, Any]) -> Path:
    """Writes the file of settings, and where `--settings auto` finds it; returns the latter."""
    write_json(directory / NAME, record)
    kept = tuned_file(str(record["model"]))
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_json(kept, record)
    except OSError as error:
        raise ValueError(
            f"{kept}: expected a folder for settings, found {error.strerror}; name one by the "
            f"variable KIS_CACHE, or pass --settings {directory / NAME}"
        ) from None
    return kept


def _known(inputs: ScanInputs, model: Model, seed: int) -> tuple[list[Fact], tuple[int, int]]:
    """Facts for the pilot, in the order in which they are taken, and how many are known of all."""
    asked = [fact for fact in inputs.facts if fact.target_true and fact.target_new.strip()]
    asked = [fact for fact in asked if fact.neighborhood_prompts]
    right = recall(model, inputs.tokenizer, asked)
    facts = [fact for fact, known in zip(asked, right, strict=True) if known]
    if len(facts) < _FEWEST:
        raise ValueError(
            f"facts: expected at least {_FEWEST} that the model knows, as a pilot edits what it "
            f"knows, found {len(facts)} of {len(inputs.facts)} in {inputs.request.facts}; name "
            "others with --facts"
        )
    order = np.random.default_rng(seed).permutation(len(facts))
    return [_fewer(facts[place]) for place in order], (len(facts), len(inputs.facts))


def _fewer(fact: Fact) -> Fact:
    """A fact with no more than some of its prompts, so that more facts can be tried in the time."""
    changes: dict[str, Any] = {"portability": ()}
    for name in ("neighborhood_prompts", "neighborhood_targets", "neighborhood_aliases"):
        changes[name] = getattr(fact, name)[:_NEIGHBORS]
    changes["paraphrase_prompts"] = fact.paraphrase_prompts[:_NEIGHBORS]
    return dataclasses.replace(fact, **changes)


def _text(inputs: ScanInputs, model: Model) -> list[Continuation]:
    """Ordinary text, of which every token but the first is predicted."""
    documents = itertools.islice(inputs.corpus.read(model), _TEXTS)
    length = min(_TEXT_LENGTH, model.config.context_length)
    tokens = tokenize_corpus(documents, inputs.tokenizer, context_length=length)
    return [Continuation(list(one), 1) for one in tokens if len(one) > 1]


def _check_time(left: Callable[[], float], budget: float, spent_on: str) -> None:
    if left() <= 0:
        raise ValueError(
            f"budget: expected time for one trial, found {budget:g} s, which {spent_on} took; give "
            "more, such as --budget 10m, or second moments of an earlier run by --second-moments"
        )


def _record(
    inputs: ScanInputs,
    settings: EditSettings,
    why: str,
    evidence: Sequence[LayerEvidence],
    trials: Sequence[Trial],
    facts: Sequence[Fact],
    known: tuple[int, int],
) -> dict[str, Any]:
    most = max(len(trial.efficacy) for trial in trials)
    return {
        "format": 1,
        "version": importlib.metadata.version("kis_jax"),
        "model": inputs.fingerprints["model"],
        "source": inputs.request.model,
        "family": inputs.config.family,
        "origin": why,
        "settings": flat(settings),
        "evidence": [
            {
                name: value if np.isfinite(value) else None
                for name, value in {**dataclasses.asdict(one), "cost": one.cost}.items()
            }
            for one in evidence
        ],
        "trials": [trial.record() for trial in trials],
        "facts": inputs.request.facts,
        "known": list(known),
        "pilot": [fact.case_id for fact in facts[:most]],
        "fingerprints": inputs.fingerprints,
    }
