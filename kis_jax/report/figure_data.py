"""What a figure shows as a table: a CSV file beside every picture, read off the picture itself."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection, PolyCollection
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import StepPatch

COLUMNS = ("panel", "series", "x", "y", "x_end", "y_end")


def csv_of(figure: Figure) -> str:
    """The numbers of a figure, by panel and series.

    A series is named by its label, also by one that begins with an underscore, which a legend
    leaves out. A point is a row with x and y; of a bar, band or segment `x_end` and `y_end` are
    its other side. A figure of one picture of a matrix is that matrix, a row a line.

    Args:
      figure: that is drawn.

    Returns:
      The text of a CSV file.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    panels = [a for a in figure.axes if a.get_label() != "<colorbar>" and a.get_visible()]
    images = [axes.images[0] for axes in panels if axes.images]
    if len(images) == 1 and len(panels) == 1:
        writer.writerows(_matrix(images[0]))
        return text.getvalue()
    writer.writerow(COLUMNS)
    for place, axes in enumerate(panels):
        name = axes.get_title(loc="left") or axes.get_title() or axes.get_ylabel() or str(place)
        writer.writerows([name, *row] for row in _rows(axes))
    return text.getvalue()


def _matrix(image: AxesImage) -> Iterator[list[str]]:
    for row in np.ma.filled(np.ma.asarray(image.get_array(), dtype=np.float64), np.nan):
        yield list(map(_text, row))


def _rows(axes: Axes) -> Iterator[list[str]]:
    """Series, x, y, x_end, y_end."""
    for image in axes.images:
        matrix = np.ma.filled(np.ma.asarray(image.get_array(), dtype=np.float64), np.nan)
        for (i, j), value in np.ndenumerate(matrix):
            yield ["entry of row y, column x", str(j), str(i), "", _text(value)]
    for line in axes.lines:
        across, up = (np.atleast_1d(np.asarray(side)) for side in line.get_data(orig=True))
        for x, y in zip(across, up, strict=True):
            yield [_name(line), _text(x), _text(y), "", ""]
    for patch in axes.patches:
        if isinstance(patch, StepPatch):
            heights, edges, base = patch.get_data()
            foot = np.broadcast_to(np.asarray(0.0 if base is None else base), np.shape(heights))
            for x, y, end, low in zip(edges, heights, edges[1:], foot, strict=False):
                yield [_name(patch), _text(x), _text(y), _text(end), _text(low)]
        else:
            box = patch.get_path().get_extents(patch.get_patch_transform())
            yield [_name(patch), *map(_text, (box.x0, box.y1, box.x1, box.y0))]
    for found in axes.collections:
        if isinstance(found, LineCollection):
            for segment in found.get_segments():
                if len(segment):
                    yield [_name(found), *map(_text, (*segment[0], *segment[-1]))]
        elif isinstance(found, PolyCollection):
            for path in found.get_paths():
                corners = np.asarray(path.vertices, dtype=np.float64)
                for x in np.unique(corners[:, 0]):
                    side = corners[corners[:, 0] == x, 1]
                    yield [_name(found), *map(_text, (x, side.max(), x, side.min()))]
        elif isinstance(found, PathCollection):
            for x, y in np.asarray(found.get_offsets()):
                yield [_name(found), _text(x), _text(y), "", ""]


def _name(artist: object) -> str:
    label = str(artist.get_label())  # pyright: ignore[reportAttributeAccessIssue]
    if re.fullmatch(r"_child\d+|_nolegend_", label):
        return ""  # matplotlib's own word for one without a name
    return label.removeprefix("_").replace("\n", " ")


def _text(value: object) -> str:
    """A number to six digits; nothing for what is not one."""
    try:
        number = float(value)  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError):
        return str(value)
    return f"{number:.6g}" if np.isfinite(number) else ""
