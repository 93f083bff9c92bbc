"""One layer's matrices: pure functions from arrays to a `Figure`.

Each figure stands without the page: its width is that of a paper's column, its axes carry their
units, and no fact's text is drawn.
"""

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from kis_jax.report.style import BLUE, GREY, ORANGE, PALE, WIDTH, styled
from kis_jax.scan.density import gaussian_density

_P = "superposition p(i, j)"
# P is not bounded by 1: one weak key beside a strong one must not flatten the picture.
_FARTHEST = 3.0
# Half an entry: the foot of a logarithmic axis of counts.
_FLOOR = 0.5


@styled
def superposition_map(superposition: np.ndarray) -> Figure:
    """Heat map of P on a diverging colour map from -1 to 1.

    Args:
      superposition: (n, n); row: the fact edited, column: the fact touched.

    Returns:
      The figure.
    """
    figure = Figure(figsize=(WIDTH, 4.2))
    axes = figure.subplots()
    figure.subplots_adjust(left=0.1, right=0.88, top=0.98, bottom=0.12)
    colours = matplotlib.colormaps["RdBu_r"].with_extremes(bad="#bdbdbd")
    # "none": an SVG keeps one pixel for one entry, and the viewer does not blur them.
    image = axes.imshow(superposition, cmap=colours, vmin=-1, vmax=1, interpolation="none")
    axes.spines[:].set_visible(True)
    axes.set_xlabel("touched fact j")
    axes.set_ylabel("edited fact i")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(8, integer=True))
    entries = _off_diagonal(superposition)
    below, above = (entries < -1).any(), (entries > 1).any()
    bar = figure.colorbar(
        image,
        ax=axes,
        extend="both" if below and above else "min" if below else "max" if above else "neither",
        ticks=[-1, -0.5, 0, 0.5, 1],
        fraction=0.045,
        pad=0.03,
    )
    bar.set_label(_P)
    bar.outline.set_linewidth(0.7)  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
    return figure


@styled
def superposition_density(
    superposition: np.ndarray, same_subject: np.ndarray | None = None
) -> Figure:
    """Histogram and density of P's off-diagonal entries beside a normal curve.

    The left panel shows the bulk; the right one all entries on a logarithmic axis, where a heavy
    tail leaves the normal curve's parabola.

    Args:
      superposition: (n, n).
      same_subject: (n, n) bool; entries between facts of one subject, drawn in a second colour.

    Returns:
      The figure.
    """
    figure = Figure(figsize=(WIDTH, 2.7))
    bulk, tail = figure.subplots(1, 2)
    figure.subplots_adjust(left=0.09, right=0.98, top=0.9, bottom=0.18, wspace=0.38)
    entries = _off_diagonal(superposition)
    bulk.set_title("bulk")
    tail.set_title("tail (log scale)")
    for axes in (bulk, tail):
        axes.set_xlabel(_P)
    if entries.size < 2 or entries.min() == entries.max():
        return _nothing_to_draw(figure)
    _draw_bulk(bulk, entries)
    _draw_tail(tail, entries, _off_diagonal(superposition, same_subject))
    return figure


def _draw_bulk(axes: Axes, entries: np.ndarray) -> None:
    centre, spread = entries.mean(), entries.std()
    points = np.linspace(centre - 4.5 * spread, centre + 4.5 * spread, 301)
    bins = np.linspace(points[0], points[-1], 61)
    # The area is that of all entries, also of those out of sight.
    scale = 1 / (entries.size * (bins[1] - bins[0]))
    _fill(axes, entries, bins, PALE, scale=scale, label="_all entries")
    axes.plot(points, gaussian_density(entries, points), color=BLUE, label="density\nestimate")
    axes.plot(
        points, _normal(points, entries), color=GREY, linestyle="--", label="normal,\nequal std"
    )
    axes.set_xlim(points[0], points[-1])
    axes.set_ylabel("probability density")
    axes.legend(loc="upper right", handlelength=1.4, borderaxespad=0)


def _draw_tail(axes: Axes, entries: np.ndarray, duplicates: np.ndarray) -> None:
    low = max(-_FARTHEST, min(-0.5, 1.05 * entries.min()))
    high = min(_FARTHEST, max(1.1, 1.05 * entries.max()))
    bins = np.linspace(low, high, 91)
    _fill(axes, entries, bins, PALE, floor=_FLOOR, label="_all entries")
    if duplicates.size:
        _fill(axes, duplicates, bins, ORANGE, floor=_FLOOR, label="same\nsubject")
        axes.legend(loc="upper right", handlelength=1.0, borderaxespad=0)
    points = np.linspace(low, high, 601)
    scale = entries.size * (bins[1] - bins[0])
    _count_in_powers(axes)
    estimate, normal = gaussian_density(entries, points), _normal(points, entries)
    axes.plot(points, scale * estimate, color=BLUE, lw=1.0, label="_density estimate")
    axes.plot(points, scale * normal, color=GREY, ls="--", lw=1.0, label="_normal, equal std")
    axes.set_xlim(low, high)
    axes.set_ylim(_FLOOR, 3 * np.histogram(entries, bins)[0].max())
    axes.set_ylabel("entries per bin")
    unseen = int(((entries < low) | (entries > high)).sum())
    if unseen:
        axes.set_title(f"tail (log scale; {unseen} beyond)")


@styled
def angle_distributions(
    whitening_cosine: np.ndarray,
    activation_cosine: np.ndarray,
    same_subject: np.ndarray | None = None,
) -> Figure:
    """Angles between keys in whitening and in activation space, side by side.

    Args:
      whitening_cosine: (n, n) cosines of the whitened keys.
      activation_cosine: (n, n) cosines of the keys as they are.
      same_subject: (n, n) bool; pairs of one subject, drawn in a second colour.

    Returns:
      The figure.
    """
    figure = Figure(figsize=(WIDTH, 2.7))
    left, right = figure.subplots(1, 2, sharey=True)
    figure.subplots_adjust(left=0.115, right=0.97, top=0.9, bottom=0.18, wspace=0.12)
    bins = np.linspace(0, 180, 91)
    for axes, cosine, title in (
        (left, whitening_cosine, "whitening space"),
        (right, activation_cosine, "activation space"),
    ):
        _fill(axes, _angles(cosine), bins, BLUE, floor=_FLOOR, label="_all pairs")
        duplicates = _angles(cosine, same_subject)
        if duplicates.size:
            _fill(axes, duplicates, bins, ORANGE, floor=_FLOOR, label="same subject")
            axes.legend(loc="upper right", handlelength=1.0, borderaxespad=0)
        axes.axvline(90, color=GREY, linewidth=0.9, linestyle="--", label="_90 degrees")
        axes.set_title(title)
        axes.set_xlabel("angle between keys (degrees)")
        axes.set_xlim(0, 180)
        axes.set_xticks([0, 45, 90, 135, 180])
    _count_in_powers(left)
    left.set_ylim(_FLOOR, max(10, whitening_cosine.size / 2))
    left.set_ylabel("pairs per 2 degrees")
    return figure


def _angles(cosine: np.ndarray, where: np.ndarray | None = None) -> np.ndarray:
    """Angles in degrees of the unordered pairs (cosine is symmetric)."""
    upper = np.triu(np.ones(cosine.shape, dtype=bool), 1)
    chosen = cosine[upper if where is None else upper & where]
    return np.degrees(np.arccos(np.clip(chosen[np.isfinite(chosen)], -1, 1)))


def _fill(
    axes: Axes,
    sample: np.ndarray,
    edges: np.ndarray,
    colour: str,
    *,
    scale: float = 1.0,
    floor: float = 0.0,
    label: str | None = None,
) -> None:
    """A filled histogram that stands on `floor`."""
    heights = scale * np.histogram(sample, edges)[0]
    axes.stairs(
        np.maximum(heights, floor), edges, baseline=floor, fill=True, color=colour, label=label
    )


def _off_diagonal(matrix: np.ndarray, where: np.ndarray | None = None) -> np.ndarray:
    chosen = ~np.eye(len(matrix), dtype=bool)
    entries = matrix[chosen if where is None else chosen & where]
    return entries[np.isfinite(entries)]


def _normal(points: np.ndarray, entries: np.ndarray) -> np.ndarray:
    centre, spread = entries.mean(), entries.std()
    scaled = (points - centre) / spread
    return np.exp(-0.5 * scaled**2) / (spread * np.sqrt(2 * np.pi))


def _count_in_powers(axes: Axes) -> None:
    """A logarithmic axis for counts, labelled 1, 10, 100 ... in plain figures."""
    axes.set_yscale("log")
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}" if value >= 1 else "")


def _nothing_to_draw(figure: Figure) -> Figure:
    for axes in figure.axes:
        axes.set_xticks([])
        axes.set_yticks([])
        axes.text(
            0.5,
            0.5,
            "no two different\nfinite entries",
            ha="center",
            va="center",
            color=GREY,
            transform=axes.transAxes,
        )
    return figure
