"""Lifelong runs of several models side by side: pure functions from `lifetimes.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter, NullLocator

from kis_jax.checkpoints.files import write_atomically
from kis_jax.report.record_files import number, read_record
from kis_jax.report.style import GREY, WIDTH, png, styled

FORMAT = 1
_GROUPS = {
    "edited": "edited facts",
    "other_facts": "facts not edited",
    "text": "ordinary text",
}


def write_lifetime_figures(directory: Path) -> list[Path]:
    """Draws `lifetimes.json` of a folder into its `figures/`: the same record, the same bytes.

    Raises:
      ValueError: when the record is missing or damaged.
    """
    record = read_record(
        directory / "lifetimes.json", command="family_study.py", format=FORMAT, parse=dict
    )
    written = []
    for name, figure in figures(record).items():
        place = directory / "figures" / f"{name}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        with write_atomically(place) as path:
            path.write_bytes(png(figure))
        written.append(place)
    return written


def write_lifetimes(directory: Path, record: Mapping[str, Any]) -> None:
    """Writes `lifetimes.json`."""
    directory.mkdir(parents=True, exist_ok=True)
    with write_atomically(directory / "lifetimes.json") as path:
        path.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n")


def figures(record: Mapping[str, Any]) -> Mapping[str, Figure]:
    """All figures of a record, by name."""
    models = record["models"]
    return {"interference": interference(models), "lifetimes": lifetimes(models)}


@styled
def interference(models: Sequence[Mapping[str, Any]]) -> Figure:
    """Displacement against the number of edits, foreseen (lines) and measured (marks).

    Args:
      models: a colour each, from the smallest to the largest, dark to light.

    Returns:
      The figure.
    """
    figure = Figure(figsize=(WIDTH, 3.2))
    panels = figure.subplots(1, len(_GROUPS), sharex=True)
    figure.subplots_adjust(left=0.1, right=0.98, top=_under_legend(models), bottom=0.15, wspace=0.4)
    for axes, (group, title) in zip(panels, _GROUPS.items(), strict=True):
        for model, colour in zip(models, _colours(models), strict=True):
            edits = [point["edits"] for point in model["course"]]
            for name, mark in (("predicted", "-"), ("measured", "o")):
                heights = [_positive(point[group][name]) for point in model["course"]]
                label = f"{model['label']}, {name}"
                axes.plot(
                    edits, heights, mark, color=colour, markersize=2.5, linewidth=1, label=label
                )
        axes.set_title(title, fontsize=8)
        axes.set_yscale("log")
        axes.yaxis.set_minor_formatter(NullFormatter())
        if group == "edited":
            # Before some edit there is nothing to be moved but by rounding.
            axes.set_ylim(1e-3, None)
        _edits(axes)
    panels[0].set_ylabel("displacement")
    figure.supxlabel("number of edits", fontsize=9, y=0.01)
    _legend(figure, models)
    return figure


@styled
def lifetimes(models: Sequence[Mapping[str, Any]]) -> Figure:
    """Efficacy against the number of edits; collapse against what was foreseen.

    Args:
      models: as for `interference`; one that outlived its run is drawn open, at the run's end.

    Returns:
      The figure.
    """
    figure = Figure(figsize=(WIDTH, 3.2))
    left, right = figure.subplots(1, 2)
    figure.subplots_adjust(left=0.1, right=0.98, top=_under_legend(models), bottom=0.15, wspace=0.3)
    last = models[0]["course"][-1]["edits"]
    for model, colour in zip(models, _colours(models), strict=True):
        edits = [point["edits"] for point in model["course"]]
        scores = [
            [number(p["efficacy"][n]) for p in model["course"]] for n in ("mean", "low", "high")
        ]
        left.fill_between(edits, scores[1], scores[2], color=colour, alpha=0.12, linewidth=0)
        left.plot(edits, scores[0], "o-", color=colour, markersize=2.5, linewidth=1)
        x, y = model["foreseen"], model["measured"]
        sound = x is not None and y is not None
        right.plot(x or last, y or last, "o", color=colour, mfc=colour if sound else "none")
    left.axhline(0.75, color=GREY, linewidth=0.8, linestyle=":")
    left.set_ylim(-0.03, 1.03)
    left.set_title("efficacy, all edits so far", fontsize=8)
    left.set_xlabel("number of edits")
    _edits(left)
    right.plot([1, last], [1, last], color=GREY, linewidth=0.8, linestyle=":")
    right.set_title("edits until collapse", fontsize=8)
    right.set_xlabel("until edits are foreseen half lost")
    right.set_ylabel("until collapse")
    right.set_yscale("log")
    _edits(right)
    lives = [life for m in models for life in (m["foreseen"] or last, m["measured"] or last)]
    right.set_xlim(min(lives) / 1.7, 1.7 * max(lives))
    right.set_ylim(min(lives) / 1.7, 1.7 * max(lives))
    _legend(figure, models)
    return figure


def _edits(axes: Axes) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}" if value >= 1 else "")


def _positive(value: float | None) -> float:
    """A height for a logarithmic axis, which has no place for zero."""
    height = number(value)
    return height if height > 0 else np.nan


def _colours(models: Sequence[Mapping[str, Any]]) -> list[str]:
    """One for each model, by its size."""
    order = np.argsort(np.argsort([model["num_parameters"] for model in models]))
    scale = matplotlib.colormaps["viridis"]
    return [to_hex(scale(0.9 * place / max(1, len(models) - 1))) for place in order]


def _under_legend(models: Sequence[Mapping[str, Any]]) -> float:
    return 0.9 - 0.06 * -(-len(models) // 3)


def _legend(figure: Figure, models: Sequence[Mapping[str, Any]]) -> None:
    handles = [
        Line2D([], [], color=colour, label=model["label"])
        for model, colour in zip(models, _colours(models), strict=True)
    ]
    figure.legend(handles=handles, loc="upper center", ncols=3, handlelength=1.6)
