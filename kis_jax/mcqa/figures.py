"""Accuracy on puzzles, and which choices were taken for which: pure functions to a `Figure`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from kis_jax.mcqa.files import Way
from kis_jax.report.style import BLUE, GREY, ORANGE, WIDTH, styled

_COLOURS = (BLUE, ORANGE)


@styled
def accuracies(ways: Sequence[Way], chance: float) -> Figure:
    """Accuracies with their intervals, a line for each metric.

    Args:
      ways: of scoring, one or two.
      chance: the accuracy of guessing single puzzles.

    Returns:
      The figure.
    """
    names = list(ways[0].metrics)
    figure = Figure(figsize=(WIDTH, 1.1 + 0.34 * len(names)))
    axes = figure.subplots()
    figure.subplots_adjust(left=0.3, right=0.97, top=0.84, bottom=0.24 if len(names) > 3 else 0.4)
    rows = np.arange(len(names))
    for place, (way, colour) in enumerate(zip(ways, _COLOURS, strict=False)):
        found = [way.metrics[name] for name in names]
        means = np.array([each.mean for each in found])
        ends = np.array([(each.low, each.high) for each in found]).T
        spread = np.abs(ends - means)
        heights = rows + 0.22 * (place - (len(ways) - 1) / 2)
        axes.errorbar(
            means, heights, xerr=spread, fmt="os"[place], color=colour, markersize=4,
            capsize=2, linewidth=1, label=way.name,
        )  # fmt: skip
    axes.axvline(chance, color=GREY, linewidth=0.8, linestyle=":", label="chance, one puzzle")
    axes.set_yticks(rows, [name.replace("_", " ") for name in names])
    axes.invert_yaxis()
    axes.set_xlim(-0.02, 1.02)
    axes.set_xlabel("accuracy")
    axes.legend(loc="lower left", bbox_to_anchor=(-0.35, 1), ncols=3, borderaxespad=0.2)
    return figure


@styled
def confusion(way: Way) -> Figure:
    """How often each choice was taken where another was right, by their places in the file.

    Args:
      way: of scoring.

    Returns:
      The figure.
    """
    counts = way.confusion
    figure = Figure(figsize=(WIDTH, 3.2))
    axes = figure.subplots()
    figure.subplots_adjust(left=0.1, right=0.9, top=0.97, bottom=0.15)
    image = axes.imshow(counts, cmap="Blues", vmin=0, interpolation="none")
    axes.spines[:].set_visible(True)
    for right, taken in np.ndindex(counts.shape):
        dark = counts[right, taken] > counts.max() / 2
        axes.text(
            taken, right, f"{counts[right, taken]:,}", ha="center", va="center", fontsize=8,
            color="white" if dark else "black",
        )  # fmt: skip
    axes.set_xlabel("choice taken")
    axes.set_ylabel("right choice")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(len(counts), integer=True))
    figure.colorbar(image, ax=axes, fraction=0.045, pad=0.03).set_label("puzzles")
    return figure
