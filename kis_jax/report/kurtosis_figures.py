"""Kurtosis over a whole scan: pure functions from statistics to a `Figure`."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from kis_jax.report.scan_files import Convergence
from kis_jax.report.style import BLUE, GREY, ORANGE, PALE, WIDTH, styled

_MOST_PANELS = 8


@styled
def kurtosis_by_layer(
    layers: Sequence[int], kurtosis: Sequence[float], distinct: Sequence[float] | None = None
) -> Figure:
    """Excess kurtosis of P's off-diagonal entries, layer by layer.

    Args:
      layers: numbers of the layers.
      kurtosis: one value a layer; what is not finite is left out.
      distinct: the same over facts with distinct subjects, where duplicates were found.

    Returns:
      The figure.
    """
    figure = Figure(figsize=(WIDTH, 3.3))
    axes = figure.subplots()
    figure.subplots_adjust(left=0.12, right=0.97, top=0.9, bottom=0.15)
    axes.plot(layers, kurtosis, "o-", color=BLUE, markersize=4, label="all facts")
    if distinct is not None:
        axes.plot(layers, distinct, "s--", color=ORANGE, markersize=3.5, label="each subject once")
    axes.axhline(0, color=GREY, linewidth=0.8, linestyle=":", label="normal distribution")
    axes.set_xlabel("layer")
    axes.set_ylabel("excess kurtosis")
    axes.set_xlim(min(layers) - 0.5, max(layers) + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(12, integer=True, min_n_ticks=1))
    axes.set_ylim(*_from_zero(kurtosis, distinct or ()))
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderaxespad=0.2)
    return figure


@styled
def kurtosis_convergence(curves: Mapping[int, Convergence]) -> Figure:
    """Kurtosis in the number of facts: mean and 5-95 % band over random subsets, by layer.

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
        axes.fill_between(curve.num_facts, curve.low, curve.high, color=PALE, linewidth=0)
        axes.plot(curve.num_facts, curve.kurtosis, "o-", color=BLUE, markersize=2.5)
        axes.set_title(f"layer {layer}", fontsize=8, pad=3)
    for axes in panels[len(spread) :]:
        axes.set_visible(False)
    for axes in panels[max(0, len(spread) - columns) : len(spread)]:
        axes.tick_params(labelbottom=True)
    drawn = [curves[layers[position]] for position in spread]
    sizes = [size for curve in drawn for size in curve.num_facts]
    heights = [side for curve in drawn for side in (curve.low, curve.kurtosis, curve.high)]
    panels[0].set_xlim(0, 1.05 * max(sizes, default=1))
    panels[0].set_ylim(*_from_zero(*heights))
    panels[0].xaxis.set_major_locator(MaxNLocator(3, integer=True))
    figure.supxlabel("number of facts", fontsize=9, y=0.01)
    figure.supylabel("excess kurtosis", fontsize=9, x=0.01)
    return figure


def _from_zero(*curves: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """Limits that hold all finite values and zero, with some air."""
    values = np.concatenate([np.asarray(curve, dtype=np.float64) for curve in curves] or [[]])
    values = np.append(values[np.isfinite(values)], [0.0, 1.0])
    air = 0.06 * (values.max() - values.min())
    return values.min() - air, values.max() + air
