"""Several models side by side: pure functions from what `compare.json` holds to a `Figure`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullLocator

from kis_jax.compare.files import ComparedModel, Comparison, Law
from kis_jax.report.style import BLUE, GREEN, GREY, ORANGE, WIDTH, styled

SIZES = {
    "num_parameters": "parameters",
    "width": "width",
    "key_dimension": "key dimension",
}
_MAPS_IN_A_ROW = 3
# Digits of ticks within a power of ten, coarse to fine.
_ROUND = ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7), (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9))
# Measures drawn against size, with their marks: facts, controls.
_KURTOSES = {
    "kurtosis_distinct_subjects": ("each subject once", "s--", ORANGE),
    "kurtosis": ("facts", "o-", BLUE),
    "kurtosis_other_tokens": ("other tokens", "^-.", GREEN),
    "kurtosis_width_alone": ("width alone", "x:", GREY),
}
_WIDTHS = {
    "bulk_std_times_sqrt_rank": ("facts", "o-", BLUE),
    "bulk_other_tokens": ("other tokens", "^-.", GREEN),
}


@styled
def by_depth(models: Sequence[ComparedModel]) -> Figure:
    """Kurtosis, its control, and the measures that are free of the width, by relative depth.

    Args:
      models: a line each; in grey the kurtosis of random directions.

    Returns:
      The figure.
    """
    figure = Figure(figsize=(WIDTH, 5.0))
    panels = figure.subplots(2, 2, sharex=True)
    figure.subplots_adjust(left=0.11, right=0.98, top=_under_legend(models), bottom=0.1, wspace=0.3)
    drawn = {
        "kurtosis": "excess kurtosis, facts",
        "kurtosis_other_tokens": "excess kurtosis, other tokens",
        "bulk_std_times_sqrt_rank": "bulk times root of rank",
        "tail_fraction": "share of pairs in the tail",
    }
    for axes, (name, title) in zip(panels.ravel(), drawn.items(), strict=True):
        for model, colour in zip(models, _colours(models), strict=True):
            depths = [layer.depth for layer in model.layers]
            values = [layer.measures[name] for layer in model.layers]
            label = model.label
            axes.plot(depths, values, "o-", color=colour, markersize=3, linewidth=1.1, label=label)
            if name == "kurtosis":
                random = [layer.measures["kurtosis_random_directions"] for layer in model.layers]
                label = f"{label}, random directions"
                axes.plot(depths, random, "-", color=GREY, linewidth=0.7, label=label)
        axes.set_title(title, fontsize=8)
        if name == "bulk_std_times_sqrt_rank":
            axes.axhline(1, color=GREY, linewidth=0.8, linestyle=":")
        axes.set_xlim(-0.05, 1.05)
    tops = [axes.get_ylim()[1] for axes in panels[0]]
    for axes in panels[0]:  # one scale, so that facts and their control can be compared
        axes.set_ylim(min(0, *(other.get_ylim()[0] for other in panels[0])), max(tops))
    for axes in panels[1]:
        axes.set_xlabel("relative depth")
    _legend(figure, models)
    return figure


@styled
def laws(comparison: Comparison) -> Figure:
    """Kurtosis and the width of the bulk against the size of models, with fitted laws.

    Args:
      comparison: of any number of models; of one, a point without a line.

    Returns:
      The figure.
    """
    figure = Figure(figsize=(WIDTH, 4.6))
    panels = figure.subplots(2, 3, sharey="row", sharex="col")
    figure.subplots_adjust(left=0.14, right=0.98, top=0.93, bottom=0.1, wspace=0.12, hspace=0.12)
    for row, measures in zip(panels, (_KURTOSES, _WIDTHS), strict=True):
        for axes, (size, title) in zip(row, SIZES.items(), strict=True):
            sizes = [model.sizes[size] for model in comparison.models]
            for name, (label, marks, colour) in measures.items():
                means = (model.means[name] for model in comparison.models)
                points = list(zip(sizes, means, strict=True))
                _draw_law(axes, points, comparison.law(name, size), label, marks, colour)
            _scales(axes, sizes)
            if measures is _WIDTHS:
                axes.axhline(1, color=GREY, linewidth=0.8, linestyle=":")
                axes.set_xlabel(title)
        _round_ticks(row[0])
        row[0].set_ylabel(
            "mean excess kurtosis" if measures is _KURTOSES else "bulk × root of rank"
        )
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper center", ncols=4, handlelength=2.4)
    return figure


def _draw_law(
    axes: Axes,
    points: Sequence[tuple[float, float]],
    law: Law,
    label: str,
    marks: str,
    colour: str,
) -> None:
    sound = [(x, y) for x, y in points if x > 0 and y > 0]
    x, y = np.array(sound or [(np.nan, np.nan)]).T
    hollow = "none" if marks[0] == "s" else colour  # it lies on the facts where no subject repeats
    axes.plot(x, y, marks[0], color=colour, markersize=5, markerfacecolor=hollow, label=label)
    if np.isfinite(law.exponent):
        ends = np.array([x.min(), x.max()])
        fitted = np.exp(law.logarithm) * ends**law.exponent
        axes.plot(ends, fitted, marks[1:], color=colour, linewidth=1, label=f"_law of {label}")


def _scales(axes: Axes, found: Sequence[float]) -> None:
    """Logarithms both ways; the sizes named are the smallest and the largest."""
    axes.set_yscale("log")
    sizes = [x for x in found if x > 0]
    if sizes:
        axes.set_xscale("log")
        axes.set_xlim(min(sizes) / 1.3, max(sizes) * 1.3)
        shown = sorted({min(sizes), max(sizes)})
        axes.set_xticks(shown, [_short(size) for size in shown])
        axes.xaxis.set_minor_locator(NullLocator())


def _round_ticks(axes: Axes) -> None:
    """On a logarithmic axis of values: three round numbers at least, and no more than need be."""
    low, high = axes.get_ylim()
    powers = 10.0 ** np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)))
    tried = (np.outer(powers, digits).ravel() for digits in _ROUND)
    inside = [ticks[(low <= ticks) & (ticks <= high)] for ticks in tried]
    ticks = next((ticks for ticks in inside if len(ticks) >= 3), inside[-1])
    axes.set_yticks(ticks, [f"{tick:.3g}" for tick in ticks])
    axes.yaxis.set_minor_locator(NullLocator())


def _short(size: float) -> str:
    """A number in few characters: 384, 1.5K, 12M, 6.7B."""
    for unit, name in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if size >= unit:
            return f"{size / unit:.3g}{name}"
    return f"{size:.4g}"


@styled
def heat_maps(models: Sequence[ComparedModel]) -> Figure:
    """P of one layer of each model, on the scale from -1 to 1.

    Args:
      models: a map each.

    Returns:
      The figure.
    """
    columns = min(_MAPS_IN_A_ROW, len(models))
    rows = -(-len(models) // columns)
    figure = Figure(figsize=(WIDTH, 0.5 + rows * WIDTH / columns))
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    figure.subplots_adjust(
        left=0.02, right=0.98, top=1 - 0.3 / (rows + 1), bottom=0.02, wspace=0.06
    )
    colours = matplotlib.colormaps["RdBu_r"].with_extremes(bad="#bdbdbd")
    for axes, model in zip(panels, models, strict=False):
        axes.imshow(model.superposition, cmap=colours, vmin=-1, vmax=1, interpolation="none")
        axes.set_title(f"{_cut(model.label)}, layer {model.drawn}", fontsize=7)
        axes.spines[:].set_visible(True)
        axes.set_xticks([])
        axes.set_yticks([])
    for axes in panels[len(models) :]:
        axes.set_visible(False)
    return figure


@styled
def densities(models: Sequence[ComparedModel]) -> Figure:
    """Histograms of P times the root of its rank, on a logarithmic axis.

    In these units the bulk of unrelated directions is the standard normal curve in every model.

    Args:
      models: a line each.

    Returns:
      The figure.
    """
    figure = Figure(figsize=(WIDTH, 3.4))
    axes = figure.subplots()
    figure.subplots_adjust(left=0.12, right=0.97, top=_under_legend(models), bottom=0.15)
    low, high = models[0].ends
    for model, colour in zip(models, _colours(models), strict=True):
        edges = np.linspace(*model.ends, len(model.counts) + 1)
        total = model.counts.sum() + model.beyond
        density = model.counts / (max(total, 1) * (edges[1] - edges[0]))
        heights = np.where(density > 0, density, np.nan)
        axes.stairs(heights, edges, color=colour, linewidth=1.1, label=model.label)
        low, high = min(low, model.ends[0]), max(high, model.ends[1])
    points = np.linspace(-4.5, 4.5, 301)
    normal = np.exp(-(points**2) / 2) / np.sqrt(2 * np.pi)
    axes.plot(points, normal, "--", color=GREY, linewidth=1, label="normal distribution")
    axes.set_yscale("log")
    axes.set_xlim(low, high)
    axes.set_xlabel("superposition p(i, j) × root of rank")
    axes.set_ylabel("probability density")
    _legend(figure, models)
    return figure


@styled
def convergence(models: Sequence[ComparedModel]) -> Figure:
    """Kurtosis in the number of facts at one layer of each model, with bootstrap intervals.

    Args:
      models: a line each.

    Returns:
      The figure.
    """
    figure = Figure(figsize=(WIDTH, 3.4))
    axes = figure.subplots()
    figure.subplots_adjust(left=0.12, right=0.97, top=_under_legend(models), bottom=0.15)
    shifts = np.linspace(-0.04, 0.04, len(models)) if len(models) > 1 else np.zeros(1)
    for model, colour, shift in zip(models, _colours(models), shifts, strict=True):
        curve = model.convergence
        places = curve.num_facts * np.exp(shift)  # beside one another, not on one another
        style: dict[str, Any] = {"color": colour, "label": model.label}
        axes.plot(places, curve.kurtosis, "o-", markersize=3, linewidth=1.1, **style)
        axes.vlines(places, curve.bootstrap_low, curve.bootstrap_high, linewidth=0.9, **style)
    sizes = sorted({size for model in models for size in model.convergence.num_facts})
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [f"{size:.0f}" for size in sizes])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.set_xlabel("number of facts")
    axes.set_ylabel("excess kurtosis")
    _legend(figure, models)
    return figure


def _colours(models: Sequence[ComparedModel]) -> list[str]:
    """From the smallest model to the largest, dark to light."""
    order = np.argsort(np.argsort([model.sizes["num_parameters"] for model in models]))
    scale = matplotlib.colormaps["viridis"]
    return [to_hex(scale(0.9 * place / max(1, len(models) - 1))) for place in order]


def _under_legend(models: Sequence[ComparedModel]) -> float:
    """Where panels end, so that a row of the legend for each three models fits above."""
    return 0.93 - 0.045 * -(-len(models) // 3)


def _legend(figure: Figure, models: Sequence[ComparedModel]) -> None:
    handles = [
        Line2D([], [], color=colour, label=_cut(model.label))
        for model, colour in zip(models, _colours(models), strict=True)
    ]
    figure.legend(handles=handles, loc="upper center", ncols=3, handlelength=1.6)


def _cut(label: str) -> str:
    """A label that fits beside two others; matplotlib would read dollars as mathematics."""
    short = label if len(label) <= 24 else f"{label[:11]}…{label[-12:]}"
    return short.replace("$", r"\$")


def figures(comparison: Comparison) -> Mapping[str, Figure]:
    """All figures of a comparison, by name."""
    models = comparison.models
    return {
        "by_depth": by_depth(models),
        "laws": laws(comparison),
        "heat_maps": heat_maps(models),
        "densities": densities(models),
        "convergence": convergence(models),
    }
