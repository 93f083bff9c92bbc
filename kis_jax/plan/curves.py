"""What a plan's page lets its reader move along: the layers, and the edits at each."""

from __future__ import annotations

from typing import Any

import numpy as np

from kis_jax.plan.files import Choice, Plan, PlannedLayer
from kis_jax.report import words
from kis_jax.report.curves import looks, panel

_PAIRS = 8
_CLUSTERS = 5
_FACTS = 8
_MEASURES = (
    ("Effect", "effect", 1.0),
    ("Displaced", "displacement", None),
    ("Score", "score", 1.0),
)


def content(plan: Plan) -> dict[str, Any]:
    """The JSON object of the page; see `script/curves.js`."""
    methods = list(dict.fromkeys(c.method for layer in plan.layers for c in layer.choices))
    bound = float(plan.settings["max_displacement"])
    places = [layer.index for layer in plan.layers]

    def rows(name: str) -> dict[str, list[float]]:
        found = {method: [layer.choice(method) for layer in plan.layers] for method in methods}
        return {
            method: [np.nan if choice is None else getattr(choice, name) for choice in choices]
            for method, choices in found.items()
        }

    return {
        "title": "Layer by layer",
        "line": "Method",
        "axis": {
            "name": "layer",
            "places": places,
            "names": [f"Layer {place}" for place in places],
            "log": False,
        },
        "start": places.index(plan.layer),
        "lines": looks(methods),
        "panels": [
            panel(
                title,
                rows(name),
                high=high,
                digits=3 if name == "score" else 2,
                marks=[(bound, "bound")] if name == "displacement" else [],
            )
            for title, name, high in _MEASURES
        ],
        "captions": [f"Layer {layer.index}, all edits made" for layer in plan.layers],
        "sayings": [_sayings(plan, layer) for layer in plan.layers],
        "inner": [_growth(layer, methods, bound) for layer in plan.layers],
        "facts": [[fact.sides[0], fact.subject, fact.sides[1], fact.target] for fact in plan.facts],
    }


def _sayings(plan: Plan, layer: PlannedLayer) -> list[list[str | int]]:
    """What collides at a layer, in words; a number stands for a fact."""
    said: list[list[str | int]] = []
    if layer.index == plan.layer:
        said.append([f"This layer is recommended, with {plan.method}."])
        if plan.order is not None:
            rest = len(plan.order) - _FACTS
            more = f" and {rest} more, in plan.json." if rest > 0 else "."
            said.append(["Edit in this order: ", *_listed(plan.order[:_FACTS]), more])
    bound = plan.settings["max_superposition"]
    said.append(
        [
            f"{layer.num_collisions} pairs of facts collide here, with |p| above {bound:g}, in "
            f"{len(layer.clusters)} clusters; {layer.num_near_duplicates} are near-duplicates."
        ]
    )
    for pair in layer.pairs[:_PAIRS]:
        twin = " (near-duplicates)" if pair.near_duplicate else ""
        there, back = words.number(pair.superposition), words.number(pair.reverse)
        said.append(
            [f"p = {there}, back {back}{twin}: ", pair.edit, " lands on ", pair.touched, "."]
        )
    for cluster in layer.clusters[:_CLUSTERS]:
        if len(cluster) > 2:
            rest = len(cluster) - _FACTS
            more = f" and {rest} more." if rest > 0 else "."
            said.append([f"Cluster of {len(cluster)}: ", *_listed(cluster[:_FACTS]), more])
    return said


def _listed(places: tuple[int, ...]) -> list[str | int]:
    return [part for place in places for part in ("; ", place)][1:]


def _growth(layer: PlannedLayer, methods: list[str], bound: float) -> dict[str, Any] | None:
    """The forecasts of a layer over the number of edits."""
    counts = sorted({point.num_edits for c in layer.choices for point in c.curve})
    if len(counts) < 2:
        return None

    def row(choice: Choice | None, name: str) -> list[float]:
        points = {} if choice is None else {p.num_edits: getattr(p, name) for p in choice.curve}
        return [points.get(count, np.nan) for count in counts]

    return {
        "axis": {"name": "number of edits", "places": counts, "log": True},
        "panels": [
            panel(
                f"{title}, by number of edits",
                {method: row(layer.choice(method), name) for method in methods},
                high=high,
                marks=[(bound, "bound")] if name == "displacement" else [],
            )
            for title, name, high in _MEASURES
        ],
    }
