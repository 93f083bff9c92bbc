"""The page of an evaluation on puzzles."""

from __future__ import annotations

from pathlib import Path

from kis_jax.mcqa import figures
from kis_jax.mcqa.files import McqaRun, read_mcqa
from kis_jax.report import document, words

_OPTIONS = ("puzzles", "prompt", "prior_prompt", "seed")
_MISTAKES_SHOWN = 40


def write_mcqa_report(directory: Path) -> Path:
    """Draws a finished evaluation.

    Everything is read and drawn before the first file is written, and each file appears under
    its name only when it is whole. The same record gives the same bytes.

    Args:
      directory: where `kis mcqa eval` wrote `mcqa.json`.

    Returns:
      The path of `report.html`, beside `figures/*.png` and `figures/*.svg`.

    Raises:
      ValueError: when `mcqa.json` is missing or damaged, or has no right answers.
    """
    directory = Path(directory)
    run = read_mcqa(directory)
    pictures = draw(run)
    return document.write_document(directory, render(run, pictures), pictures)


def draw(run: McqaRun) -> dict[str, bytes]:
    """All figures of an evaluation as PNG and SVG, by file name."""
    pictures = document.encoded("accuracies", figures.accuracies(run.ways, 1 / run.num_choices))
    for place, way in enumerate(run.ways):
        pictures |= document.encoded(f"confusion_{place}", figures.confusion(way))
    return pictures


def render(run: McqaRun, pictures: dict[str, bytes]) -> str:
    """The page's HTML, one document that loads nothing."""
    content = {
        "run": run,
        "title": words.title(run.model),
        "chance": 1 / run.num_choices,
        "mistakes_shown": _MISTAKES_SHOWN,
        "command": words.command_line("mcqa eval", run.model, run.settings, _OPTIONS),
    }
    return document.render("mcqa.html", pictures, content)
