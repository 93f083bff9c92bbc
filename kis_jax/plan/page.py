"""The page of a plan: what would collide, and what each layer would make of the edits."""

from __future__ import annotations

from pathlib import Path

from kis_jax.plan import curves, figures
from kis_jax.plan.files import Plan, read_plan
from kis_jax.report import document, words
from kis_jax.report.curves import SCRIPTS

# The options that `kis plan` takes; other settings follow from them.
_OPTIONS = (
    "facts",
    "corpus",
    "num_facts",
    "layers",
    "max_superposition",
    "max_displacement",
    "methods",
    "num_others",
    "num_rehearsed",
    "num_documents",
    "document_length",
    "ridge",
    "inverse",
    "position",
)
_PAIRS_SHOWN = 20
_CLUSTERS_SHOWN = 20
_FACTS_SHOWN = 1000


def write_plan_report(directory: Path) -> Path:
    """Draws a finished plan.

    Everything is read and drawn before the first file is written, and each file appears under
    its name only when it is whole. The same record gives the same bytes.

    Args:
      directory: where `kis plan` wrote `plan.json`.

    Returns:
      The path of `report.html`, beside `figures/*.png` and `figures/*.svg`.

    Raises:
      ValueError: when `plan.json` is missing or damaged.
    """
    directory = Path(directory)
    plan = read_plan(directory)
    pictures = draw(plan)
    return document.write_document(directory, render(plan, pictures), pictures)


def draw(plan: Plan) -> dict[str, bytes]:
    """All figures of a plan as PNG and SVG, by file name."""
    bound = float(plan.settings["max_displacement"])
    growth = figures.growth(plan.recommended.choices, bound)
    return {
        **document.encoded("by_layer", figures.by_layer(plan.layers)),
        **document.encoded("growth", growth),
    }


def render(plan: Plan, pictures: dict[str, bytes]) -> str:
    """The page's HTML, one document that loads nothing."""
    content = {
        "plan": plan,
        "title": words.title(plan.model),
        "pairs_shown": _PAIRS_SHOWN,
        "clusters_shown": _CLUSTERS_SHOWN,
        "facts_shown": _FACTS_SHOWN,
        "command": words.command_line("plan", plan.model, plan.settings, _OPTIONS),
    }
    data = curves.content(plan)
    return document.render(
        "plan.html", pictures, {**content, "curves": data}, scripts=SCRIPTS, data=data
    )
