"""One look for every figure, and the same bytes for the same figure.

The settings live in `STYLE` and are put on with `@styled`; the process's own matplotlib settings
are never changed.
"""

import io
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

# Okabe and Ito's colours, told apart with every common colour vision.
BLUE = "#0072B2"
ORANGE = "#D55E00"
GREEN = "#009E73"
INK = "#1a1a1a"
GREY = "#6b6b6b"
PALE = "#b7d3e6"

# Inches: a figure of a paper, which is still legible at the width of a telephone.
WIDTH = 5.2

STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # it comes with matplotlib: the same on every machine
    "mathtext.fontset": "dejavusans",
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.titley": 1.0,  # where it would be anyway; searching for it doubles the time to draw
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": GREY,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.linewidth": 0.7,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "lines.linewidth": 1.4,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": True,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "savefig.facecolor": "white",
    "figure.dpi": 100,
    "savefig.bbox": None,
    "svg.fonttype": "path",
    "svg.hashsalt": "kis_jax",
    "path.simplify": True,
}

DOTS_PER_INCH = 200

# A decorator: each call of the function it marks enters these settings and leaves them again.
styled = matplotlib.rc_context(STYLE)


@styled
def png(figure: Figure) -> bytes:
    """The figure as PNG, fit for print and, with its 256 colours, small enough for a page."""
    canvas = FigureCanvasAgg(figure)
    figure.set_dpi(DOTS_PER_INCH)
    canvas.draw()
    pixels = np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3])
    picture = Image.fromarray(pixels).quantize(256, dither=Image.Dither.NONE)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", dpi=(DOTS_PER_INCH, DOTS_PER_INCH), compress_level=9)
    return buffer.getvalue()


@styled
def svg(figure: Figure) -> bytes:
    """The figure as SVG, with neither a date nor random names inside."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()
