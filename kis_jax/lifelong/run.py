"""Lifelong editing: facts edited one after another, all measured at checkpoints on the way."""

from __future__ import annotations

import dataclasses
import importlib.metadata
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kis_jax.core.geometry.second_moment import SecondMoment
from kis_jax.lifelong import collapse
from kis_jax.lifelong.checks import Checks, Probe
from kis_jax.lifelong.courses import Course
from kis_jax.lifelong.inputs import LifelongInputs, blocks_of
from kis_jax.lifelong.layer import EditedLayer
from kis_jax.lifelong.store import LifelongStore, Saved
from kis_jax.models import Decoder, Model
from kis_jax.passes.means import tokens_of
from kis_jax.passes.scores.recall import recall

OnStep = Callable[[str, int], None]
"""Called with a method (or "targets") and the number of facts that it has come to."""


def no_probe(model: Model) -> dict[str, float]:
    """Probes nothing."""
    del model
    return {}


def run_lifelong(
    inputs: LifelongInputs,
    model: Model,
    second_moments: SecondMoment,
    directory: Path,
    *,
    probe: Probe = no_probe,
    on_step: OnStep = lambda name, edits: None,
) -> dict[str, Any]:
    """Edits the facts by each method, measures at each checkpoint, and gives all that was found.

    Target values and what was measured are saved in `directory` as they come, each whole or not
    at all: the same call takes up a run that was killed, and ends with the same record.

    Args:
      inputs: of `open_lifelong`.
      model: of `inputs`, in float32; it stays as it is.
      second_moments: of its keys, stacked over layers.
      directory: of the saved states.
      probe: of a model, further numbers to be recorded at every checkpoint, by their names, beside
        those of the request's probe. What was recorded in an earlier call is not asked for again.
      on_step: called as the run goes on.

    Returns:
      The content of `lifelong.json`, plain JSON values.

    Raises:
      ValueError: if the model is an encoder, the directory holds another run, the layer's second
        moment has no inverse, or no target value of any fact is found.

    Examples:
      Such a run takes minutes; docs/compose.md has a whole one, with a probe, that tests run.

      >>> record = run_lifelong(inputs, model, moments, Path("life"))  # doctest: +SKIP
      >>> record["methods"][0]["checkpoints"][-1]["efficacy"]  # doctest: +SKIP
      1.0
    """
    if not isinstance(model, Decoder):
        raise ValueError(
            f"model: expected a decoder, which says what follows a prompt, found an encoder "
            f"({model.config.family}); choose a causal language model"
        )
    store = LifelongStore(directory, inputs.identity)
    layer = EditedLayer(inputs, model, second_moments, store, lambda done: on_step("targets", done))
    checks = Checks(inputs, model, layer, probe)
    unedited = store.load("unedited")
    if unedited is None:
        unedited = checks.unedited()
        store.save("unedited", unedited)
    checks.compare_with(unedited)
    methods = [
        _method_record(inputs, layer, checks, store, method, on_step)
        for method in inputs.request.methods
    ]
    known = recall(
        model, inputs.scan.tokenizer, inputs.facts, token_budget=inputs.scan.token_budget
    )
    return _record(inputs, layer, second_moments, known, unedited, methods)


def _method_record(
    inputs: LifelongInputs,
    layer: EditedLayer,
    checks: Checks,
    store: LifelongStore,
    method: str,
    on_step: OnStep,
) -> dict[str, Any]:
    """One method from its last saved checkpoint to the end."""
    course, checkpoints = layer.course(method), []
    if (saved := store.load(method)) is not None:
        checkpoints = saved.about["checkpoints"]
        course.restore(saved.arrays, {int(k): v for k, v in saved.about["left_out"].items()})
        on_step(method, checkpoints[-1]["edits"])
    for block in blocks_of(inputs.steps)[len(checkpoints) :]:
        course.advance(block)
        checkpoints.append(checks.checkpoint(method, course, block, checkpoints))
        store.save(method, _saved(course, checkpoints))
        on_step(method, block.stop)
    signs = [(point["edits"], point["signs"]) for point in checkpoints]
    return {
        "method": method,
        "targets": layer.targets_of(method),
        "prefixes": list(layer.prefixes.get(method, ())),
        "left_out": [
            {"fact": place, "reason": reason} for place, reason in sorted(course.left_out.items())
        ],
        "collapse": collapse.onset(signs),
        "checkpoints": checkpoints,
    }


def _saved(course: Course, checkpoints: list[dict[str, Any]]) -> Saved:
    about = {"checkpoints": checkpoints, "left_out": course.left_out}
    return Saved(course.state(), about)


def _record(
    inputs: LifelongInputs,
    layer: EditedLayer,
    second_moments: SecondMoment,
    known: Sequence[bool | None],
    unedited: Saved,
    methods: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    failures = layer.failures
    return {
        "format": 1,
        "version": importlib.metadata.version("kis_jax"),
        "model": inputs.request.model,
        "family": inputs.scan.config.family,
        "layer": inputs.layer,
        **({"dropped_directions": layer.dropped} if layer.dropped else {}),
        "fingerprints": inputs.scan.fingerprints,
        "settings": inputs.plain_settings,
        "edit_settings": dataclasses.asdict(inputs.settings),
        "token_count": tokens_of(second_moments, inputs.scan.config),
        "held_out_documents": len(inputs.text),
        "facts": [
            {
                "case_id": fact.case_id,
                "subject": fact.subject,
                "prompt": fact.prompt,
                "target": fact.target_new,
                "known": is_known,
                "failure": failure,
            }
            for fact, is_known, failure in zip(inputs.facts, known, failures, strict=True)
        ],
        "collapse_definition": collapse.DEFINITION,
        "unedited": {name: unedited.about[name] for name in ("perplexity", "fluency", "probes")},
        "methods": methods,
    }
