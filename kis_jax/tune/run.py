"""The steps of `kis tune`: facts that the model knows, evidence, a pilot, a file of settings."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kis_jax.core.geometry.second_moment import SecondMoment
from kis_jax.core.geometry.spaces import Space
from kis_jax.data.facts import Fact
from kis_jax.data.rewrites import EDIT_POSITIONS, EditPosition, with_prefix
from kis_jax.edit.closed_forms import space_of
from kis_jax.edit.inputs import EditInputs
from kis_jax.models import Decoder, Model
from kis_jax.passes.inputs import ScanInputs
from kis_jax.passes.scores.recall import recall
from kis_jax.passes.targets.chosen import flat, tuned_file
from kis_jax.passes.targets.context_prefixes import default_prefixes
from kis_jax.passes.targets.settings import EditSettings
from kis_jax.report.output_folder import refuse_foreign, write_json
from kis_jax.tune.bench import Trial
from kis_jax.tune.evidence import LayerEvidence, layer_evidence
from kis_jax.tune.pilot import NoLayerError, OutOfTimeError, Pilot, run_pilot

Inputs = ScanInputs | EditInputs
"""Of a command: model, tokenizer and facts, among which the pilot's are sought."""

NAME = "settings.json"
_OURS = re.compile(r"settings\.json|report\.html|figures|second_moments|\..*\.partial(\.\w+)?")
FOR_MOMENTS = 0.45  # of the budget, at most, where that is enough text for a rough C
_LOOKED_AT = 16  # layers of which evidence is taken, at most
_EVIDENT = 6  # facts of which it is taken
_HOLDS = 0.25  # of known facts that are known after other text too, for a search with prefixes
_TAKES = 0.8  # efficacy of single edits, above which no other token is tried
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
    inputs: Inputs,
    model: Model,
    moments: SecondMoment,
    settings: EditSettings,
    *,
    budget: float,
    began: float,
    positions: Sequence[EditPosition] = EDIT_POSITIONS,
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
      positions: of the token whose key stands for a fact; a later one is tried where edits do
        not take by the ones before.
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
    if settings.target.prefixed and not _hold_after_text(inputs, model, facts, settings):
        settings = _searching(settings, prefixed=False)
    refused: list[ValueError] = []
    for position in positions:
        asked = _searching(settings, position=position)
        try:
            evidence = _evidence(inputs, model, moments, asked, facts)
            _check_time(left, budget, "evidence of the layers")
            pilot = run_pilot(
                *(model, inputs.tokenizer, facts, moments, asked),
                [(one.layer, one.cost) for one in evidence if np.isfinite(one.cost)],
                seconds_left=left,
                most=5 if budget >= 300 else 3,
                least=0.5 if position == positions[-1] else _TAKES,
                on_trial=on_trial,
            )
        except OutOfTimeError:
            _check_time(lambda: 0.0, budget, "all that comes before an edit")
            raise
        except NoLayerError as error:
            refused.append(error)
            continue
        return _record(inputs, pilot, evidence, facts, known) | {
            "budget": budget,
            "seconds": round(time.monotonic() - began, 1),
            "seed": seed,
        }
    found = "; ".join(map(str, refused))
    raise ValueError(f"model: expected a layer at which edits take, found {found}")


def _searching(settings: EditSettings, **changes: Any) -> EditSettings:
    """Settings with other ones of the search, of all methods."""
    return dataclasses.replace(
        settings,
        target=dataclasses.replace(settings.target, **changes),
        batch_target=dataclasses.replace(settings.batch_target, **changes),
    )


def _hold_after_text(
    inputs: Inputs, model: Decoder, facts: Sequence[Fact], settings: EditSettings
) -> bool:
    """Whether the model still knows its facts after other text, as a search with prefixes asks."""
    prefixes = default_prefixes(model, inputs.tokenizer, settings.target)[1:]
    asked = [
        dataclasses.replace(fact, prompt=with_prefix(prefix, fact.prompt))
        for fact in facts[:_EVIDENT]
        for prefix in prefixes
    ]
    try:
        known = recall(model, inputs.tokenizer, asked)
    except ValueError:  # they do not fit the context
        return False
    return float(np.mean([bool(one) for one in known])) >= _HOLDS


def _evidence(
    inputs: Inputs,
    model: Decoder,
    moments: SecondMoment,
    settings: EditSettings,
    facts: Sequence[Fact],
) -> list[LayerEvidence]:
    """What is cheap to know of some of the layers.

    Raises:
      NoLayerError: if the token of a fact's key moves its target at none of them.
    """

    def space(layer: int) -> Space | None:
        c = np.asarray(moments.total[layer], np.float64) / int(moments.count[layer])
        try:
            return space_of(c, "constrained", settings)
        except ValueError:
            return None

    most = min(_LOOKED_AT, model.config.num_layers)
    layers = np.unique(np.linspace(0, model.config.num_layers - 1, most).round().astype(int))
    evidence = layer_evidence(
        model, inputs.tokenizer, facts[:_EVIDENT], settings.target, space, layers.tolist()
    )
    if not any(np.isfinite(one.cost) for one in evidence):
        raise NoLayerError(
            f"with keys at the token {settings.target.position} none of {len(layers)} layers that "
            "moves a fact's target"
        )
    return evidence


def check_tune_directory(directory: Path) -> None:
    """Refuses an output folder that holds anything but an earlier pilot."""
    refuse_foreign(directory, ours=_OURS, kind="settings that kis tune found")


def write_tuned_settings(directory: Path, record: Mapping[str, Any]) -> Path:
    """Writes the file of settings, and where `--settings auto` finds it; returns the latter."""
    write_json(directory / NAME, record)
    return keep_settings(record, f"pass --settings {directory / NAME}")


def keep_settings(record: Mapping[str, Any], or_else: str = "pass --settings rule") -> Path:
    """Writes the file of settings where `--settings auto` finds it.

    Raises:
      ValueError: if it cannot be written, with what to do or else.
    """
    kept = tuned_file(str(record["model"]))
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_json(kept, record)
    except OSError as error:
        raise ValueError(
            f"{kept}: expected a folder for settings, found {error.strerror}; name one by the "
            f"variable KIS_CACHE, or {or_else}"
        ) from None
    return kept


def _known(inputs: Inputs, model: Model, seed: int) -> tuple[list[Fact], tuple[int, int]]:
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
    return [fewer(facts[place]) for place in order], (len(facts), len(inputs.facts))


def fewer(fact: Fact) -> Fact:
    """A fact with no more than some of its prompts, so that more facts can be tried in the time."""
    changes: dict[str, Any] = {"portability": ()}
    for name in ("neighborhood_prompts", "neighborhood_targets", "neighborhood_aliases"):
        changes[name] = getattr(fact, name)[:_NEIGHBORS]
    changes["paraphrase_prompts"] = fact.paraphrase_prompts[:_NEIGHBORS]
    return dataclasses.replace(fact, **changes)


def _check_time(left: Callable[[], float], budget: float, spent_on: str) -> None:
    if left() <= 0:
        raise ValueError(
            f"budget: expected time for one trial, found {budget:g} s, which {spent_on} took; give "
            "more, such as --budget 10m, or second moments of an earlier run by --second-moments"
        )


def _record(
    inputs: Inputs,
    pilot: Pilot,
    evidence: Sequence[LayerEvidence],
    facts: Sequence[Fact],
    known: tuple[int, int],
) -> dict[str, Any]:
    most = max(len(trial.efficacy) for trial in pilot.trials)
    return {
        "format": 1,
        "version": importlib.metadata.version("kis_jax"),
        "model": inputs.fingerprints["model"],
        "source": inputs.request.model,
        "family": inputs.config.family,
        "origin": pilot.why,
        "settings": flat(pilot.settings),
        "evidence": [
            {
                name: value if np.isfinite(value) else None
                for name, value in {**dataclasses.asdict(one), "cost": one.cost}.items()
            }
            for one in evidence
        ],
        "trials": [trial.record() for trial in pilot.trials],
        "facts": inputs.request.facts,
        "known": list(known),
        "pilot": [fact.case_id for fact in facts[:most]],
        "fingerprints": inputs.fingerprints,
    }
