"""Curves over the number of edits, several methods in one panel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from kis_jax.lifelong.files import Course
from kis_jax.report.style import BLUE, GREY, ORANGE, WIDTH, styled

# Okabe and Ito's colours again, and a mark for each: methods are told apart in grey as well.
_LOOKS = (
    (BLUE, "o"),
    (ORANGE, "s"),
    ("#009E73", "^"),
    ("#CC79A7", "D"),
    ("#56B4E9", "v"),
    ("#E69F00", "P"),
)
# As many as anyone puts side by side: the second time round with other marks.
_MARKS = (*_LOOKS, *((colour, mark) for (colour, _), mark in zip(_LOOKS, "X<>*ph", strict=True)))
_SCORES = {
    "efficacy": "efficacy, all edits so far",
    "retention": "retention of earlier edits",
    "paraphrase": "paraphrase",
    "neighborhood": "neighborhood",
}
_GROUPS = {
    "edited": "edited facts",
    "other_facts": "facts not edited",
    "text": "ordinary text",
}


@styled
def scores(courses: Sequence[Course]) -> Figure:
    """Efficacy, retention, paraphrase and neighborhood, with their intervals.

    Args:
      courses: one for each method.

    Returns:
      The figure.
    """
    figure, panels = _panels(courses, 2, 2, height=4.6, sharey=True)
    for axes, (name, title) in zip(panels, _SCORES.items(), strict=True):
        axes.set_title(title)
        axes.axhline(0.5, color=GREY, linewidth=0.8, linestyle=":")
        for (colour, mark), course in zip(_MARKS, courses, strict=False):
            edits, curve = _edits(course), course.curve(name)
            style = {"color": colour, "label": course.method}
            axes.fill_between(edits, curve[:, 1], curve[:, 2], alpha=0.15, lw=0, **style)
            axes.plot(edits, curve[:, 0], marker=mark, markersize=3, **style)
            _mark_collapse(axes, course, curve[:, 0], colour)
        axes.set_ylim(-0.03, 1.03)
    figure.supylabel("share of prompts", fontsize=9, x=0.01)
    return figure


@styled
def forecast(courses: Sequence[Course]) -> Figure:
    """Interference, foreseen (lines) and measured (marks), by group of keys.

    Args:
      courses: one for each method; one without a forecast has marks alone.

    Returns:
      The figure.
    """
    groups = [name for name in _GROUPS if any(name in c.last.interference for c in courses)]
    figure, panels = _panels(courses, 1, len(groups), height=3.0, sharey=False)
    for axes, group in zip(panels, groups, strict=True):
        axes.set_title(_GROUPS[group])
        heights = []
        for (colour, mark), course in zip(_MARKS, courses, strict=False):
            if group not in course.last.interference:  # nothing was asked of its values
                continue
            moved = [point.interference[group] for point in course.checkpoints]
            measured = _positive([entry.measured for entry in moved])
            foreseen = _positive([entry.predicted for entry in moved])
            edits, name = _edits(course), course.method
            axes.plot(edits, foreseen, color=colour, linewidth=1.2, label=f"{name}, foreseen")
            axes.plot(
                edits, measured, mark, color=colour, markersize=3.5, alpha=0.8,
                label=f"{name}, measured",
            )  # fmt: skip
            heights.append(measured)
        _logarithmic(axes, np.concatenate(heights))
    panels[0].set_ylabel("displacement")
    return figure


@styled
def growth(courses: Sequence[Course], unedited_perplexity: float) -> Figure:
    """Norm of the update relative to the kernel's, and perplexity on held-out text.

    Args:
      courses: one for each method.
      unedited_perplexity: of the model before any edit.

    Returns:
      The figure.
    """
    figure, (left, right) = _panels(courses, 1, 2, height=3.0, sharey=False)
    left.set_title("norm of the update")
    right.set_title("perplexity")
    for (colour, mark), course in zip(_MARKS, courses, strict=False):
        style = {"color": colour, "marker": mark, "markersize": 3, "label": course.method}
        updates = _positive([point.update for point in course.checkpoints])
        perplexity = _positive([point.perplexity for point in course.checkpoints])
        left.plot(_edits(course), updates, **style)
        right.plot(_edits(course), perplexity, **style)
        _mark_collapse(right, course, perplexity, colour)
    right.axhline(unedited_perplexity, color=GREY, linewidth=0.8, linestyle=":")
    left.set_yscale("log")
    right.set_yscale("log")
    left.set_ylabel("relative to the kernel")
    return figure


@styled
def probes(courses: Sequence[Course], unedited: Mapping[str, float]) -> Figure:
    """What further probes told, a panel for each.

    Args:
      courses: one for each method.
      unedited: what the probes told of the model before any edit.

    Returns:
      The figure.
    """
    names = list(unedited)
    rows = -(-len(names) // 2)
    figure, panels = _panels(courses, rows, min(2, len(names)), height=1 + 2 * rows, sharey=False)
    for axes, name in zip(panels, names, strict=False):
        axes.set_title(name)
        axes.axhline(unedited[name], color=GREY, linewidth=0.8, linestyle=":")
        for (colour, mark), course in zip(_MARKS, courses, strict=False):
            found = [point.probes.get(name, np.nan) for point in course.checkpoints]
            axes.plot(
                _edits(course), found, color=colour, marker=mark, markersize=3, label=course.method
            )
    for axes in panels[len(names) :]:
        axes.set_visible(False)
    return figure


def _panels(
    courses: Sequence[Course], rows: int, columns: int, *, height: float, sharey: bool
) -> tuple[Figure, np.ndarray]:
    """Panels over the number of edits, and a legend of the methods above them."""
    figure = Figure(figsize=(WIDTH, height))
    panels = figure.subplots(rows, columns, sharex=True, sharey=sharey, squeeze=False).ravel()
    lines = -(-len(courses) // 3)
    top = 1 - (0.42 + 0.17 * lines) / height
    figure.subplots_adjust(
        left=0.13, right=0.98, top=top, bottom=0.48 / height,
        wspace=0.14 if sharey else 0.36, hspace=0.28,
    )  # fmt: skip
    handles = [
        Line2D([], [], color=colour, marker=mark, markersize=4, label=course.method)
        for (colour, mark), course in zip(_MARKS, courses, strict=False)
    ]
    figure.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(0.11, 1), ncols=3, borderaxespad=0.1
    )
    most = max(course.last.edits for course in courses)
    for axes in panels:
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}" if value >= 1 else "")
        axes.set_xlim(0.8, 1.25 * most)
    figure.supxlabel("number of edits", fontsize=9, y=0.01)
    return figure, panels


def _edits(course: Course) -> np.ndarray:
    return np.array([point.edits for point in course.checkpoints])


def _positive(values: Sequence[float]) -> np.ndarray:
    """Values for a logarithmic axis, which has no place for zero."""
    array = np.asarray(values, np.float64)
    return np.where(array > 0, array, np.nan)


def _logarithmic(axes: Axes, heights: np.ndarray) -> None:
    """A logarithmic axis from what is worth seeing: rounding far below is out of sight.

    Its limits stand before its scale, whose own would take in what is out of sight, and overflow.
    """
    finite = heights[np.isfinite(heights)]
    most = finite.max() if finite.size else 1.0
    least = finite.min() if finite.size else 0.1
    axes.set_ylim(max(least, 1e-5 * most) / 2, 2 * most)
    axes.set_yscale("log")


def _mark_collapse(axes: Axes, course: Course, heights: np.ndarray, colour: str) -> None:
    """A ring around the point at which collapse sets in."""
    for point, height in zip(course.checkpoints, heights, strict=True):
        if point.edits == course.collapse:
            axes.plot(
                point.edits, height, "o", mfc="none", color=colour, markersize=9, mew=1,
                label=f"{course.method}, collapse",
            )  # fmt: skip
