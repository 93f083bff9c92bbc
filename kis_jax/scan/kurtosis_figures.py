"""Kurtosis over a whole scan: pure functions from statistics to a `Figure`."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from kis_jax.report.scan_files import Convergence
from kis_jax.report.style import BLUE, GREEN, GREY, ORANGE, PALE, WIDTH, styled

_MOST_PANELS = 8


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
        axes.fill_between(curve.num_facts, curve.low, curve.high, color=PALE, linewidth=0)
        axes.plot(curve.num_facts, curve.kurtosis, "o-", color=BLUE, markersize=2.5)
        ends = (curve.bootstrap_low, curve.bootstrap_high)
        axes.vlines(curve.num_facts, *ends, color=ORANGE, linewidth=0.9)
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
    for column in range(len(layers)):
        label = f"each of {len(layers)} layers" if column == 0 else None
        axes.plot(
            [tokens[row] for row in drawn], errors[drawn, column], "o-", color=BLUE,
            markersize=2.5, linewidth=0.8, alpha=0.6, label=label,
        )  # fmt: skip
    ends = np.array([tokens[drawn[0]], tokens[drawn[-1]]], dtype=np.float64)
    start = np.nanmedian(errors[drawn[0]])
    slope = start * np.sqrt(ends[0] / ends)
    axes.plot(ends, slope, "--", color=GREY, linewidth=1, label="one over the root of tokens")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.2)
    return figure


def _sides(curve: Convergence) -> tuple[np.ndarray, ...]:
    return curve.low, curve.kurtosis, curve.high, curve.bootstrap_low, curve.bootstrap_high


def _from_zero(*curves: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """Limits that hold all finite values and zero, with some air."""
    values = np.concatenate([np.asarray(curve, dtype=np.float64) for curve in curves] or [[]])
    values = np.append(values[np.isfinite(values)], [0.0, 1.0])
    air = 0.06 * (values.max() - values.min())
    return values.min() - air, values.max() + air
