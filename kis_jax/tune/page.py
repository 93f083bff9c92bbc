"""The page of a pilot: what was tried, at which layer and how strongly, and what it cost."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from kis_jax.report import document, words
from kis_jax.report.style import BLUE, GREEN, INK, ORANGE, WIDTH, styled
from kis_jax.tune.run import NAME

_LOOKS = {"efficacy": (INK, "o"), "paraphrase": (BLUE, "s"), "neighborhood": (ORANGE, "^")}


def write_tune_report(directory: Path) -> Path:
    """Draws a finished pilot from its `settings.json`; returns the path of `report.html`."""
    record = json.loads((directory / NAME).read_text(encoding="utf-8"))
    pictures = document.encoded("trade_off", trade_off(record["trials"]))
    content = {
        "record": record,
        "title": words.title(record["source"]),
        "chosen": {name: value for name, value in record["settings"].items() if value is not None},
        "alone": [trial for trial in record["trials"] if trial["num_edits"] == 1],
        "together": [trial for trial in record["trials"] if trial["num_edits"] > 1],
    }
    return document.write_document(
        directory, document.render("tune.html", pictures, content), pictures
    )


@styled
def trade_off(trials: Sequence[Mapping[str, Any]]) -> Figure:
    """The measures and the score of single edits, by layer; pale those stopped early."""
    alone = [trial for trial in trials if trial["num_edits"] == 1]
    figure = Figure(figsize=(WIDTH, 2.9))
    measures, evidence = figure.subplots(1, 2)
    figure.subplots_adjust(left=0.1, right=0.98, top=0.86, bottom=0.17, wspace=0.3)
    levels = sorted({trial["target.stop_at"] for trial in alone})
    for level in levels:
        share = (levels.index(level) + 1) / len(levels)
        for kind, (colour, mark) in _LOOKS.items():
            here = [trial for trial in alone if trial["target.stop_at"] == level]
            here = [trial for trial in here if trial[kind] is not None]
            measures.plot(
                [trial["layer"] for trial in here],
                [trial[kind] for trial in here],
                mark,
                color=colour,
                alpha=share,
                markersize=4,
                label=kind if level == levels[-1] else None,
            )
    measures.set_ylim(0, 1.02)
    measures.set_ylabel("share of prompts")
    evidence.plot(
        [trial["layer"] for trial in alone],
        [trial["score"] for trial in alone],
        "o",
        color=GREEN,
        markersize=4,
    )
    evidence.set_ylabel("score")
    for axes in (measures, evidence):
        axes.set_xlabel("layer")
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
    measures.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderaxespad=0.2)
    return figure
