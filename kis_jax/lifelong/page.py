"""The page of a lifelong run: curves of several methods side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kis_jax.lifelong import curves, figures
from kis_jax.lifelong.files import Checkpoint, Lifelong, Sign, read_lifelong
from kis_jax.report import document, words
from kis_jax.report.curves import SCRIPTS

# The options that `kis lifelong` takes; other settings follow from them.
_OPTIONS = (
    "facts",
    "corpus",
    "layer",
    "steps",
    "method",
    "targets",
    "num_others",
    "num_documents",
    "document_length",
    "held_out",
    "num_held_out",
    "most_evaluated",
    "probe",
    "ridge",
    "inverse",
    "position",
)
_COLUMNS = ("efficacy", "retention", "paraphrase", "neighborhood", "score")
# Shown where the facts have what they ask for.
_FOLLOWING = ("portability_accuracy", "multi_hop_accuracy")


def write_lifelong_report(directory: Path) -> Path:
    """Draws a finished lifelong run.

    Everything is read and drawn before the first file is written, and each file appears under
    its name only when it is whole. The same record gives the same bytes.

    Args:
      directory: where `kis lifelong` wrote `lifelong.json`.

    Returns:
      The path of `report.html`, beside `figures/*.png` and `figures/*.svg`.

    Raises:
      ValueError: when `lifelong.json` is missing or damaged.
    """
    directory = Path(directory)
    run = read_lifelong(directory)
    pictures = draw(run)
    return document.write_document(directory, render(run, pictures), pictures)


def draw(run: Lifelong) -> dict[str, bytes]:
    """All figures of a run as PNG and SVG, by file name."""
    courses = run.courses
    pictures = {
        **document.encoded("scores", figures.scores(courses)),
        **document.encoded("forecast", figures.forecast(courses)),
        **document.encoded("growth", figures.growth(courses, run.unedited_perplexity)),
    }
    if run.unedited_probes:
        figure = figures.probes(courses, run.unedited_probes)
        pictures |= document.encoded("probes", figure)
    return pictures


def render(run: Lifelong, pictures: dict[str, bytes]) -> str:
    """The page's HTML, one document that loads nothing."""
    content = {
        "run": run,
        "title": words.title(run.model),
        "columns": _columns(run),
        "most": max(course.last.edits for course in run.courses),
        "in_words": in_words,
        "untouched": untouched,
        "error": small(run.worst_error),
        "small": small,
        "command": words.command_line("lifelong", run.model, run.settings, _OPTIONS),
    }
    data = curves.content(run)
    return document.render(
        "lifelong.html", pictures, {**content, "curves": data}, scripts=SCRIPTS, data=data
    )


def _columns(run: Lifelong) -> list[str]:
    """The measures that are shown."""
    asked = [name for name in _FOLLOWING if any(c.last.score(name).count for c in run.courses)]
    return [*_COLUMNS, *asked]


def in_words(signs: Sequence[Sign]) -> str:
    """Signs of collapse: "efficacy 0.41 (limit 0.75)", joined."""
    return ", ".join(
        f"{sign.metric} {words.number(sign.value)} (limit {words.number(sign.limit)})"
        for sign in signs
    )


def untouched(point: Checkpoint) -> float:
    """Displacement of ordinary text's values, or of other facts' where there is no text."""
    for group in ("text", "other_facts"):
        if group in point.interference:
            return point.interference[group].measured
    return np.nan


def small(value: float) -> str:
    """A number that may be tiny: "3 × 10⁻⁷", "0.0123"; a dash where it is not finite."""
    return words.number(value, 4) if not 0 < abs(value) < 1e-3 else words.power(value)
