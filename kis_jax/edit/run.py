"""The steps of an edit: facts into a model, measured before and after, written at once."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from kis_jax.checkpoints.edited_directory import (
    edited_directory,
    stored_memory,
    write_edited,
    write_record,
)
from kis_jax.checkpoints.ledger import Base, Ledger
from kis_jax.core.geometry.second_moment import SecondMoment
from kis_jax.data.facts import Fact
from kis_jax.data.neighbors import without_edited_neighbors
from kis_jax.edit.inputs import EditInputs
from kis_jax.edit.methods import Outcome, make_edits
from kis_jax.models import Model
from kis_jax.models.memory import edited, with_memory
from kis_jax.passes.intervals import mean_intervals
from kis_jax.passes.scores.generated import generated_scores
from kis_jax.passes.scores.measures import Evaluation, evaluate
from kis_jax.passes.scores.recall import recall
from kis_jax.passes.targets.chosen import flat


def edit_model(
    inputs: EditInputs,
    model: Model,
    moments: SecondMoment,
    identity: Mapping[str, object],
    out: Path,
    *,
    on_fact: Callable[[int], None] = lambda done: None,
    on_forecast: Callable[[float, float], None] = lambda damage, scale: None,
) -> dict[str, Any]:
    """Edits a model and writes it, with its ledger, its adapter and `edit.json`.

    The metrics after the edit are those of the numbers in the files, as they were rounded to the
    dtype of the checkpoint. Neighborhood prompts about subjects that are edited too are left out,
    before and after: see `without_edited_neighbors`.

    Args:
      inputs: opened.
      model: of the inputs.
      moments: second moments of its keys.
      identity: of the second moments.
      out: the folder, which appears at once; an earlier edited model in it is replaced.
      on_fact: called with the number of facts that are through.
      on_forecast: called before anything is written with `Edited.damage` and `Edited.scale`.

    Returns:
      The content of `edit.json`.

    Raises:
      ValueError: as `make_edits` and `edited_directory`.
    """
    request = inputs.request
    asked = without_edited_neighbors(inputs.facts)
    known = recall(model, inputs.tokenizer, inputs.facts)
    before = evaluate(model, inputs.tokenizer, asked)
    made = make_edits(
        model,
        inputs.tokenizer,
        inputs.facts,
        moments,
        method=request.method,
        layers=inputs.layers,
        settings=inputs.settings,
        original_keys=request.original_keys,
        ridge=request.ridge,
        inverse=request.inverse,
        at_most_damage=request.at_most_damage,
        on_fact=on_fact,
    )
    on_forecast(made.damage, made.scale)
    settings = {**made.ledger.settings, "second_moments": dict(identity)}
    base = Base(source_name(request.model), inputs.fingerprints["model"])
    ledger, whole = dataclasses.replace(made.ledger, settings=settings, base=base), made.model
    if inputs.earlier is not None:
        ledger = inputs.earlier.replace(ledger)
        whole = edited(model, ledger.edits)
    with edited_directory(out) as folder:
        write_edited(folder, whole, ledger, source=request.model)
        written = with_memory(whole, stored_memory(folder, ledger.layers))
        record = {
            **ledger_record(ledger),
            "after": None if request.after is None else str(request.after),
            "origin_of_settings": inputs.settings.origin,
            "damage_foreseen": made.damage,
            "scale": made.scale,
            "edit_settings": flat(inputs.settings),
            "fingerprints": inputs.fingerprints,
            "metrics": {"before": before.summary(), "after": None},
            "history": None,
            "generated": None,
            "facts": [],
        }
        after = evaluate(written, inputs.tokenizer, asked)
        record["metrics"]["after"] = after.summary()
        if request.generated:
            record["generated"] = {
                "before": _generated(model, inputs),
                "after": _generated(written, inputs),
            }
        first = len(ledger.facts) - len(made.ledger.facts)
        record["history"] = _history(written, inputs.tokenizer, ledger)
        record["facts"] = _facts(made.outcomes, known, before, after, first)
        write_record(folder, record)
    return record


def _generated(model: Model, inputs: EditInputs) -> dict[str, dict[str, float | int | None]]:
    """By what the model writes by itself; with its chat template where it has one."""
    given = model, inputs.tokenizer, inputs.facts
    found = generated_scores(*given)
    if getattr(inputs.tokenizer, "chat_template", None):
        found |= generated_scores(*given, chat=True)
    return mean_intervals(found)


def _history(
    model: Model, tokenizer: PreTrainedTokenizerFast, ledger: Ledger
) -> dict[str, float | int | None]:
    """How much of all that the ledger holds the model says, teacher-forced, earlier edits too."""
    facts = [
        Fact(fact.case_id, fact.prompt, fact.subject, target_new=fact.target)
        for fact in ledger.facts
    ]
    return evaluate(model, tokenizer, facts).summary()["efficacy_accuracy"]


def source_name(model: str) -> str:
    """How a ledger names its base: a path in full, other names as they are."""
    return str(Path(model).resolve()) if Path(model).is_dir() else model


def ledger_record(ledger: Ledger) -> dict[str, Any]:
    """What `edit.json` tells of a ledger, plain JSON values."""
    return {
        "format": 1,
        "version": importlib.metadata.version("kis_jax"),
        "base": None if ledger.base is None else dataclasses.asdict(ledger.base),
        "method": ledger.method,
        "layers": sorted(ledger.layers),
        "weight": ledger.weight,
        "prefixes": list(ledger.prefixes),
        "settings": dict(ledger.settings),
        "edits": [{"row": row, **dataclasses.asdict(f)} for row, f in enumerate(ledger.facts)],
    }


def _facts(
    outcomes: Sequence[Outcome],
    known: Sequence[bool | None],
    before: Evaluation,
    after: Evaluation,
    first: int,
) -> list[dict[str, Any]]:
    """For each fact what became of it, whether the model knew it, and its metrics.

    Those that were edited have the rows of the ledger from `first` on.
    """
    measured = zip(before.records(), after.records(), strict=True)
    told, row = [], first
    for outcome, was_known, pair in zip(outcomes, known, measured, strict=True):
        fact, search = outcome.fact, outcome.search
        told.append(
            {
                "case_id": fact.case_id,
                "subject": fact.subject,
                "prompt": fact.prompt,
                "target_new": fact.target_new,
                "target_true": fact.target_true,
                "known": was_known,
                "row": row if outcome.reason is None else None,
                "left_out": outcome.reason,
                "loss": _number(search.loss),
                "probability": _number(search.probability),
                "steps": search.steps,
                "before": pair[0],
                "after": pair[1],
            }
        )
        row += outcome.reason is None
    return told


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
