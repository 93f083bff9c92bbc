"""Kurtosis over a whole scan: pure functions from statistics to a `Figure`."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from kis_jax.report.scan_files import Convergence
from kis_jax.report.style import BLUE, GREEN, GREY, ORANGE, PALE, WIDTH, styled

_MOST_PANELS = 8
_BAND = "#e3e7eb"
_CONTROL_LOOKS = {"random_directions": ":", "other_tokens": "--"}


@styled
def kurtosis_by_layer(
    layers: Sequence[int],
    kurtosis: Sequence[float],
    distinct: Sequence[float] | None = None,
    *,
    others: Sequence[float] | None = None,
    random: Sequence[float] | None = None,
) -> Figure:
    """Excess kurtosis of P's off-diagonal entries, layer by layer.

    Args:
      layers: numbers of the layers.
      kurtosis: one value a layer; what is not finite is left out.
      distinct: the same over facts with distinct subjects, where duplicates were found.
      others: the same of keys at other tokens of the same texts, where they were measured.
      random: the same of random directions, where it was measured.

    Returns:
      The figure.
    """
    figure = Figure(figsize=(WIDTH, 3.3))
    axes = figure.subplots()
    figure.subplots_adjust(left=0.12, right=0.97, top=0.84, bottom=0.15)
    axes.plot(layers, kurtosis, "o-", color=BLUE, markersize=4, label="all facts")
    if distinct is not None:
        axes.plot(layers, distinct, "s--", color=ORANGE, markersize=3.5, label="each subject once")
    if others is not None:
        axes.plot(layers, others, "^-.", color=GREEN, markersize=3.5, label="other tokens")
    if random is not None:
        axes.plot(layers, random, "x-", color=GREY, markersize=3.5, label="random directions")
    axes.axhline(0, color=GREY, linewidth=0.8, linestyle=":", label="normal distribution")
    axes.set_xlabel("layer")
    axes.set_ylabel("excess kurtosis")
    axes.set_xlim(min(layers) - 0.5, max(layers) + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(12, integer=True, min_n_ticks=1))
    axes.set_ylim(*_from_zero(kurtosis, distinct or (), others or (), random or ()))
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderaxespad=0.2)
    return figure


@styled
def layers_at_a_glance(
    layers: Sequence[int], measures: Sequence[Mapping[str, Any]], controls: Mapping[str, str]
) -> Figure:
    """Kurtosis, bulk and tail by layer, each beside the band of its controls.

    Args:
      layers: numbers of the layers.
      measures: for each a name, its scale, and rows of facts, of distinct subjects (or None) and
        of controls; None or NaN for what is not finite.
      controls: their names in words.

    Returns:
      The figure.
    """
    figure = Figure(figsize=(2 * WIDTH, 2.7))
    figure.subplots_adjust(left=0.06, right=0.99, top=0.8, bottom=0.17, wspace=0.2)
    panels = figure.subplots(1, len(measures), squeeze=False)[0]
    for axes, measure in zip(panels, measures, strict=True):
        rows = {name: _row(row) for name, row in measure["controls"].items()}
        if rows:
            stacked = np.stack(list(rows.values()))
            ends = np.fmin.reduce(stacked), np.fmax.reduce(stacked)
            axes.fill_between(layers, *ends, color=_BAND, linewidth=0, label="controls")
        for name, row in rows.items():
            axes.plot(layers, row, _CONTROL_LOOKS[name], color=GREY, lw=0.8, label=controls[name])
        if measure["distinct"] is not None:
            row = _row(measure["distinct"])
            axes.plot(layers, row, "--", color=ORANGE, label="each subject once")
        axes.plot(layers, _row(measure["facts"]), "o-", color=BLUE, markersize=3, label="facts")
        axes.set_yscale(measure["scale"])
        axes.set_title(measure["name"])
        axes.set_xlabel("layer")
        axes.set_xlim(min(layers) - 0.5, max(layers) + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(10, integer=True, min_n_ticks=1))
        low, high = _from_zero(_row(measure["facts"]), *rows.values())
        if measure["scale"] == "asinh":
            axes.set_yticks([0, 1, 10, 100, 1000])
            axes.yaxis.set_major_formatter("{x:.0f}")
            axes.yaxis.set_minor_locator(NullLocator())
            low = max(low, -0.3)
        axes.set_ylim(low, high)
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="upper left", bbox_to_anchor=(0.05, 1), ncols=5)
    return figure


def _row(values: Sequence[float | None]) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


@styled
def kurtosis_convergence(curves: Mapping[int, Convergence]) -> Figure:
    """Kurtosis in the number of facts, by layer.

    The mean and the 5-95 % band over random subsets, and bars: the bootstrap's 95 % interval.

    Args:
      curves: one for each layer; of more than eight, eight evenly spread ones are drawn.

    Returns:
      The figure.
    """
    layers = sorted(curves)
    spread = np.linspace(0, len(layers) - 1, min(len(layers), _MOST_PANELS)).round().astype(int)
    rows = 1 if len(spread) <= 3 else 2
    columns = -(-len(spread) // rows)
    figure = Figure(figsize=(WIDTH, 3.3))
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    figure.subplots_adjust(left=0.12, right=0.98, top=0.92, bottom=0.14, wspace=0.12, hspace=0.28)
    for axes, layer in zip(panels, (layers[position] for position in spread), strict=False):
        curve = curves[layer]
        sizes, ends = curve.num_facts, (curve.bootstrap_low, curve.bootstrap_high)
        axes.fill_between(sizes, curve.low, curve.high, color=PALE, linewidth=0, label="subsets")
        axes.plot(sizes, curve.kurtosis, "o-", color=BLUE, markersize=2.5, label="mean of subsets")
        axes.vlines(sizes, *ends, color=ORANGE, linewidth=0.9, label="bootstrap")
        axes.set_title(f"layer {layer}", fontsize=8, pad=3)
    for axes in panels[len(spread) :]:
        axes.set_visible(False)
    for axes in panels[max(0, len(spread) - columns) : len(spread)]:
        axes.tick_params(labelbottom=True)
    drawn = [curves[layers[position]] for position in spread]
    sizes = [size for curve in drawn for size in curve.num_facts]
    heights = [side for curve in drawn for side in _sides(curve)]
    panels[0].set_xlim(0, 1.05 * max(sizes, default=1))
    panels[0].set_ylim(*_from_zero(*heights))
    panels[0].xaxis.set_major_locator(MaxNLocator(3, integer=True))
    figure.supxlabel("number of facts", fontsize=9, y=0.01)
    figure.supylabel("excess kurtosis", fontsize=9, x=0.01)
    return figure


@styled
def second_moment_convergence(
    tokens: Sequence[int], errors: np.ndarray, layers: Sequence[int]
) -> Figure:
    """The relative standard error of C in the number of tokens, on logarithmic axes.

    Args:
      tokens: at each look, `(t,)`.
      errors: of each layer, `(t, layers)`; what is not finite is left out.
      layers: numbers of the layers.

    Returns:
      The figure.
    """
    figure = Figure(figsize=(WIDTH, 3.0))
    axes = figure.subplots()
    figure.subplots_adjust(left=0.13, right=0.97, top=0.9, bottom=0.16)
    axes.set_xlabel("tokens")
    axes.set_ylabel("relative standard error of C")
    drawn = [row for row in range(len(tokens)) if np.isfinite(errors[row]).any()]
    if not drawn:
        axes.text(0.5, 0.5, "too few parts to tell", ha="center", transform=axes.transAxes)
        return figure
    for column, layer in enumerate(layers):
        axes.plot(
            [tokens[row] for row in drawn], errors[drawn, column], "o-", color=BLUE,
            markersize=2.5, linewidth=0.8, alpha=0.6, label=f"_layer {layer}",
        )  # fmt: skip
    ends = np.array([tokens[drawn[0]], tokens[drawn[-1]]], dtype=np.float64)
    start = np.nanmedian(errors[drawn[0]])
    slope = start * np.sqrt(ends[0] / ends)
    axes.plot(ends, slope, "--", color=GREY, linewidth=1, label="one over the root of tokens")
    axes.set_xscale("log")
    axes.set_yscale("log")
    names = [f"each of {len(layers)} layers", "one over the root of tokens"]
    handles = [axes.lines[0], axes.lines[-1]]
    axes.legend(handles, names, loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.2)
    return figure


def _sides(curve: Convergence) -> tuple[np.ndarray, ...]:
    return curve.low, curve.kurtosis, curve.high, curve.bootstrap_low, curve.bootstrap_high


def _from_zero(*curves: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """Limits that hold all finite values and zero, with some air."""
    values = np.concatenate([np.asarray(curve, dtype=np.float64) for curve in curves] or [[]])
    values = np.append(values[np.isfinite(values)], [0.0, 1.0])
    air = 0.06 * (values.max() - values.min())
    return values.min() - air, values.max() + air
