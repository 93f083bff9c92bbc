"""What the page of a comparison lets its reader move along: relative depth."""

from __future__ import annotations

from typing import Any

import numpy as np

from kis_jax.compare.files import ComparedLayer, ComparedModel, Comparison
from kis_jax.report.curves import looks, panel

_STEPS = 21
_PANELS = (
    ("kurtosis", "Excess kurtosis, facts", 2, 1.0),
    ("kurtosis_other_tokens", "Excess kurtosis, other tokens", 2, 1.0),
    ("bulk_std_times_sqrt_rank", "Bulk × √r", 3, 1.0),
    ("bulk_other_tokens", "Bulk × √r, other tokens", 3, 1.0),
    ("tail_fraction", "Tail, %", 2, 100.0),
)


def content(comparison: Comparison) -> dict[str, Any]:
    """The JSON object of the page; see `script/curves.js`.

    At each depth a model has the numbers of its nearest layer.
    """
    depths = np.linspace(0, 1, _STEPS)
    places = [round(depth, 2) for depth in depths.tolist()]
    names = _distinct([model.label for model in comparison.models])
    nearest = [[_nearest(model, depth) for depth in depths] for model in comparison.models]
    return {
        "title": "Side by side, at one depth",
        "line": "Model",
        "axis": {
            "name": "relative depth",
            "places": places,
            "names": [f"Depth {place:.2f}" for place in places],
            "log": False,
        },
        "start": int(np.argmin(np.abs(depths - comparison.depth))),
        "lines": looks(names),
        "panels": [
            panel(
                title,
                {
                    name: [factor * layer.measures[key] for layer in layers]
                    for name, layers in zip(names, nearest, strict=True)
                },
                digits=digits,
                scale="asinh" if key.startswith("kurtosis") else "linear",
            )
            for key, title, digits, factor in _PANELS
        ],
        "captions": [f"The layers nearest to depth {place:.2f}" for place in places],
        "sayings": [[[_layers(names, nearest, place)]] for place in range(_STEPS)],
        "facts": [],
    }


def _layers(names: list[str], nearest: list[list[ComparedLayer]], place: int) -> str:
    layers = zip(names, nearest, strict=True)
    told = ", ".join(f"layer {found[place].index} of {name}" for name, found in layers)
    return f"{told[0].upper()}{told[1:]}."


def _nearest(model: ComparedModel, depth: float) -> ComparedLayer:
    return min(model.layers, key=lambda layer: abs(layer.depth - depth))


def _distinct(names: list[str]) -> list[str]:
    """Names that tell models apart: a repeated one is numbered."""
    seen: dict[str, int] = {}
    told = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        told.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return told
