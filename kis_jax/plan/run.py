"""The steps of a plan: each layer's collisions, forecasts, rehearsals, and what they recommend."""

from __future__ import annotations

import dataclasses
import importlib.metadata
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from kis_jax.core.editing.ledger import Edit
from kis_jax.core.geometry.second_moment import SecondMoment
from kis_jax.data.conflicts import conflicts, suspected
from kis_jax.data.corpora import tokenize_corpus
from kis_jax.models import Decoder, Model
from kis_jax.models.memory import edited, memory_kernel
from kis_jax.passes.collisions import clusters, colliding_pairs
from kis_jax.passes.means import mean_second_moment, tokens_of
from kis_jax.passes.measuring import tell_dropped
from kis_jax.passes.scores.recall import recall
from kis_jax.passes.targets.chosen import flat
from kis_jax.passes.targets.values import target_values
from kis_jax.plan.forecasts import LayerForecast, Outlook, forecast_layer
from kis_jax.plan.inputs import PlanInputs
from kis_jax.plan.probes import Probe, probe_layers
from kis_jax.plan.rehearsal import Rehearsals

_PAIRS = 100  # colliding pairs listed for a layer
_AT_RISK = 20  # texts listed for a layer and method
# Keys of which this share, or more, is common: an edit of one is an edit of the other.
_NEAR = 0.95
# Of target values and keys: the prompt alone. With the twenty prefixes of an edit, a plan of all
# layers would take twenty times as long, and layers rank without them.
_PREFIXES = ("",)


# Tries an edit of a layer in memory.
Rehearse = Callable[[int, Edit | None], dict[str, float] | None]


def make_plan(
    inputs: PlanInputs,
    model: Model,
    moments: SecondMoment,
    *,
    on_layer: Callable[[int, int], None] = lambda layer, facts: None,
) -> dict[str, Any]:
    """Plans edits, without making any; rehearsals edit a copy of one kernel at a time.

    Args:
      inputs: what is planned.
      model: as it is before all edits.
      moments: second moments, stacked over its layers.
      on_layer: called with a layer, and of how many facts it has the target values.

    Returns:
      The content of `plan.json`, plain JSON values.

    Raises:
      ValueError: if a second moment has no inverse, naming the layer, or numbers go wrong.
    """
    spoken = [*inputs.others, *(text for _, text in inputs.paraphrases)]
    length = inputs.scan.config.context_length
    texts = list(tokenize_corpus(spoken, inputs.scan.tokenizer, context_length=length))
    rehearse = _rehearsals(inputs, model)
    known = recall(model, inputs.scan.tokenizer, inputs.facts)
    layers = []
    for layer, probe in enumerate(
        probe_layers(model, texts, token_budget=inputs.scan.token_budget)
    ):
        if layer in inputs.scan.layers:
            forecast = _forecast(inputs, model, moments, probe, layer, on_layer)
            tell_dropped(layer, forecast.dropped)
            layers.append(_plan_layer(inputs, forecast, layer, rehearse))
    return _record(inputs, known, layers, tokens_of(moments, model.config))


def _forecast(
    inputs: PlanInputs,
    model: Model,
    moments: SecondMoment,
    probe: Probe,
    layer: int,
    on_layer: Callable[[int, int], None],
) -> LayerForecast:
    targets = target_values(
        model,
        inputs.scan.tokenizer,
        inputs.facts,
        layer=layer,
        settings=inputs.settings.target,
        prefixes=_PREFIXES,
        on_progress=lambda done, _: on_layer(layer, done),
    )
    num_texts = len(inputs.others) + len(inputs.paraphrases)
    try:
        return forecast_layer(
            targets,
            np.asarray(memory_kernel(model, layer), np.float64),
            mean_second_moment(
                moments,
                layer,
                model.config,
                ridge=inputs.request.ridge,
                inverse=inputs.request.inverse,
            ),
            probe.part(0, len(inputs.others)),
            inputs.settings,
            methods=inputs.request.methods,
            ridge=inputs.request.ridge,
            inverse=inputs.request.inverse,
            paraphrases=probe.part(len(inputs.others), num_texts) if inputs.paraphrases else None,
            paraphrased=[place for place, _ in inputs.paraphrases],
        )
    except ValueError as error:
        raise ValueError(f"layer {layer}: {error}") from error


def _rehearsals(inputs: PlanInputs, model: Model) -> Rehearse:
    """The call that tries one edit in memory; it gives None if none is to be tried."""
    n, most = len(inputs.facts), inputs.request.num_rehearsed
    if not most or not isinstance(model, Decoder):
        return lambda layer, edit: None
    places = np.unique(np.linspace(0, n - 1, min(most, n)).round().astype(int))
    stage = Rehearsals(
        model,
        inputs.scan.tokenizer,
        [inputs.facts[place] for place in places],
        inputs.others,
        token_budget=inputs.scan.token_budget,
    )

    def rehearse(layer: int, edit: Edit | None) -> dict[str, float]:
        tried = model if edit is None else edited(model, {layer: edit})
        found = stage.of(tried, range(len(places)))
        return {**dataclasses.asdict(found), "score": found.score}

    return rehearse


def _plan_layer(
    inputs: PlanInputs, forecast: LayerForecast, layer: int, rehearse: Rehearse
) -> dict[str, Any]:
    p = np.nan_to_num(forecast.superposition)
    pairs = colliding_pairs(p, inputs.request.max_superposition)
    near = np.sqrt(np.abs(p * p.T))[pairs[:, 0], pairs[:, 1]] >= _NEAR
    off = np.abs(p[~np.eye(len(p), dtype=bool)])
    return {
        "layer": layer,
        **({"dropped_directions": forecast.dropped} if forecast.dropped else {}),
        "superposition": {"mean": float(off.mean()), "max": float(off.max())},
        "num_collisions": len(pairs),
        "num_near_duplicates": int(near.sum()),
        "pairs": [
            {
                "edit": int(i),
                "touched": int(j),
                "superposition": float(p[i, j]),
                "reverse": float(p[j, i]),
                "near_duplicate": bool(alike),
            }
            for (i, j), alike in zip(pairs[:_PAIRS], near[:_PAIRS], strict=True)
        ],
        "suspected": [float(np.sqrt(np.abs(p[i, j] * p[j, i]))) for i, j in _suspected(inputs)],
        "clusters": clusters(pairs.tolist(), len(p)),
        "reached": float(forecast.probabilities.mean()),
        "methods": [
            _plan_method(inputs, forecast, method, lambda edit: rehearse(layer, edit))
            for method in inputs.request.methods
            if method in forecast.asked
        ],
    }


def _plan_method(
    inputs: PlanInputs,
    forecast: LayerForecast,
    method: str,
    rehearse: Callable[[Edit | None], dict[str, float] | None],
) -> dict[str, Any]:
    """One method at one layer, its facts in the best order known for it."""
    n, given = len(inputs.facts), np.arange(len(inputs.facts))
    order = forecast.order() if method == "sequential" else given
    curve = [forecast.outlook(method, order[:t]) for t in _checkpoints(n)]
    bound = inputs.request.max_displacement
    within = n if curve[-1].displacement <= bound else forecast.edits_within(method, order, bound)
    found = {
        "method": method,
        **_plain(curve[-1]),
        "rehearsal": rehearse(forecast.edit(method, order)[0]),
        "edits_within_bound": within,
        "most_displaced": _most_displaced(inputs, forecast.displaced(method, order)),
        "order": order.tolist() if method == "sequential" else None,
        "curve": [_plain(point) for point in curve],
    }
    if method == "sequential":
        found["in_the_order_given"] = _plain(forecast.outlook(method, given))
    return found


def _most_displaced(inputs: PlanInputs, displaced: np.ndarray) -> list[dict[str, Any]]:
    """The texts to be left alone that are displaced most, the worst first."""
    places = np.argsort(-displaced, kind="stable")[:_AT_RISK]
    return [
        {"text": inputs.others[place], "displacement": float(displaced[place])} for place in places
    ]


def _checkpoints(n: int) -> list[int]:
    """1, 2, 5, 10, 20, ... and n."""
    steps = [base * 10**power for power in range(9) for base in (1, 2, 5)]
    return [*(step for step in steps if step < n), n]


def _plain(outlook: Outlook) -> dict[str, float | int]:
    return {
        "num_edits": outlook.num_edits,
        "displacement": outlook.displacement,
        "kept": outlook.kept,
        "effect": outlook.effect,
        "carried": outlook.carried,
        "score": outlook.score,
    }


def recommend(layers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The layer and method with the best score, rehearsed if it was; on equal ones the earlier."""
    choices = [(layer, method) for layer in layers for method in layer["methods"]]
    layer, method = max(choices, key=lambda choice: (choice[1]["rehearsal"] or choice[1])["score"])
    chosen = {name: value for name, value in method.items() if name != "curve"}
    return {"layer": layer["layer"], **chosen}


def _suspected(inputs: PlanInputs) -> list[tuple[int, int]]:
    return [(c.first, c.second) for c in suspected(inputs.facts) if c.contradiction]


def _record(
    inputs: PlanInputs,
    known: list[bool | None],
    layers: list[dict[str, Any]],
    tokens: int,
) -> dict[str, Any]:
    told = conflicts(inputs.facts)
    return {
        "format": 1,
        "version": importlib.metadata.version("kis_jax"),
        "model": inputs.request.model,
        "family": inputs.scan.config.family,
        "fingerprints": inputs.fingerprints,
        "settings": inputs.plain_settings,
        "edit_settings": {**flat(inputs.settings), "origin": inputs.settings.origin},
        "prefixes": list(_PREFIXES),
        "token_count": tokens,
        "num_others": len(inputs.others),
        "facts": [
            {
                "case_id": fact.case_id,
                "subject": fact.subject,
                "prompt": fact.prompt,
                "target": fact.target_new,
                "relation": fact.relation,
                "known": is_known,
            }
            for fact, is_known in zip(inputs.facts, known, strict=True)
        ],
        "contradictions": [[c.first, c.second] for c in told if c.contradiction],
        "repetitions": [[c.first, c.second] for c in told if not c.contradiction],
        # Pairs that may ask one question in other words, with how alike their keys are at most.
        "suspected": [
            [*pair, max(layer["suspected"][place] for layer in layers)]
            for place, pair in enumerate(_suspected(inputs))
        ],
        "num_collisions": sum(layer["num_collisions"] for layer in layers),
        "recommendation": recommend(layers),
        "layers": layers,
    }
