"""Figures of a plan: pure functions from its numbers to a `Figure`."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from kis_jax.plan.files import Choice, PlannedLayer
from kis_jax.report.style import BLUE, GREY, INK, ORANGE, WIDTH, styled

_LOOKS: Mapping[str, tuple[str, str]] = {
    "sequential": (ORANGE, "o-"),
    "constrained": (BLUE, "s-"),
    "batch": (INK, "^--"),
    "null-space": (GREY, "v:"),
}
_OTHERS = (("#009E73", "D-"), ("#CC79A7", "P--"), ("#56B4E9", "X:"), ("#E69F00", "<-."))


def _looks(methods: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Of each method; those that have none of their own in their order."""
    others = itertools.cycle(_OTHERS)
    return {method: _LOOKS.get(method) or next(others) for method in methods}


@styled
def by_layer(layers: Sequence[PlannedLayer]) -> Figure:
    """Forecast effect, and displacement of other knowledge, by layer, a curve for each method."""
    figure = Figure(figsize=(WIDTH, 2.9))
    effect, displaced = figure.subplots(1, 2)
    figure.subplots_adjust(left=0.1, right=0.98, top=0.86, bottom=0.17, wspace=0.3)
    methods = dict.fromkeys(choice.method for layer in layers for choice in layer.choices)
    looks = _looks(methods)
    for method in methods:
        found = [(layer.index, layer.choice(method)) for layer in layers]
        places = [index for index, choice in found if choice is not None]
        chosen = [choice for _, choice in found if choice is not None]
        colour, look = looks[method]
        for axes, heights in (
            (effect, [each.effect for each in chosen]),
            (displaced, [each.displacement for each in chosen]),
        ):
            axes.plot(places, heights, look, color=colour, markersize=3.5, label=method)
    effect.set_ylabel("effect of the edits")
    effect.set_ylim(0, 1)
    displaced.set_ylabel("displacement of the rest")
    displaced.set_ylim(bottom=0)
    for axes in (effect, displaced):
        axes.set_xlabel("layer")
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
    _legend(effect)
    return figure


@styled
def growth(choices: Sequence[Choice], bound: float) -> Figure:
    """Forecast effect and displacement of one layer in the number of edits."""
    figure = Figure(figsize=(WIDTH, 2.9))
    effect, displaced = figure.subplots(1, 2)
    figure.subplots_adjust(left=0.1, right=0.98, top=0.86, bottom=0.17, wspace=0.3)
    looks = _looks(choice.method for choice in choices)
    for choice in choices:
        colour, look = looks[choice.method]
        counts = [point.num_edits for point in choice.curve]
        for axes, heights in (
            (effect, [point.effect for point in choice.curve]),
            (displaced, [point.displacement for point in choice.curve]),
        ):
            axes.plot(counts, heights, look, color=colour, markersize=3, label=choice.method)
    displaced.axhline(bound, color=GREY, linewidth=0.8, linestyle=":")
    effect.set_ylabel("effect of the edits")
    effect.set_ylim(0, 1)
    displaced.set_ylabel("displacement of the rest")
    displaced.set_ylim(bottom=0)
    for axes in (effect, displaced):
        axes.set_xscale("log")
        axes.set_xlabel("number of edits")
    _legend(effect)
    return figure


def _legend(axes: Axes) -> None:
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=4, borderaxespad=0.2)
