"""What the page of a lifelong run lets its reader move along: the number of edits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from kis_jax.lifelong.files import Checkpoint, Course, Lifelong
from kis_jax.report.curves import looks, panel

_SCORES = ("efficacy", "retention", "paraphrase", "neighborhood")
_GROUPS = {"text": "Displaced: ordinary text", "other_facts": "Displaced: other facts"}
_FACTS = 10


def content(run: Lifelong) -> dict[str, Any]:
    """The JSON object of the page; see `script/curves.js`."""
    places = sorted({point.edits for course in run.courses for point in course.checkpoints})

    def row(course: Course, value: Callable[[Checkpoint], float]) -> np.ndarray:
        points = {point.edits: value(point) for point in course.checkpoints}
        return np.array([points.get(place, np.nan) for place in places])

    def rows(value: Callable[[Checkpoint], float]) -> dict[str, np.ndarray]:
        return {course.method: row(course, value) for course in run.courses}

    scores = [
        panel(
            name.capitalize(),
            rows(lambda point, name=name: point.score(name).mean),
            bands={
                course.method: (
                    row(course, lambda point, name=name: point.score(name).low),
                    row(course, lambda point, name=name: point.score(name).high),
                )
                for course in run.courses
            },
            high=1.0,
        )
        for name in _SCORES
    ]
    moved = [
        panel(
            title,
            rows(lambda point, group=group: _moved(point, group, "measured")),
            foreseen=rows(lambda point, group=group: _moved(point, group, "predicted")),
            digits=4,
            scale="linear",
        )
        for group, title in _GROUPS.items()
        if any(group in course.last.interference for course in run.courses)
    ]
    perplexity = panel(
        "Perplexity",
        rows(lambda point: point.perplexity),
        marks=[(run.unedited_perplexity, "unedited")],
        scale="asinh",
    )
    return {
        "title": "Edit by edit",
        "line": "Method",
        "axis": {
            "name": "number of edits",
            "places": places,
            "names": [f"{place:,} edits" for place in places],
            "log": True,
        },
        "start": len(places) - 1,
        "lines": looks([course.method for course in run.courses]),
        "panels": [*scores, *moved, perplexity],
        "captions": [f"After {place:,} edits" for place in places],
        "sayings": [[line for c in run.courses for line in _says(c, place)] for place in places],
        "facts": [[f.sides[0], f.subject, f.sides[1], f.target] for f in run.facts],
    }


def _moved(point: Checkpoint, group: str, name: str) -> float:
    found = point.interference.get(group)
    return np.nan if found is None else getattr(found, name)


def _says(course: Course, edits: int) -> list[list[str | int]]:
    """Which facts a method has lost so far, in words; a number stands for a fact."""
    point = next((each for each in course.checkpoints if each.edits == edits), None)
    if point is None:
        return [[f"{course.method}: not measured here."]]
    said: list[list[str | int]] = []
    if point.lost is not None:
        scored, lost = point.score("efficacy").count, point.lost
        if not lost:
            said.append([f"{course.method}: none of {scored} facts looked at is lost."])
        else:
            shown = [part for place in lost[:_FACTS] for part in ("; ", place)][1:]
            rest = len(lost) - _FACTS
            more = f" and {rest} more." if rest > 0 else "."
            verb = "is" if len(lost) == 1 else "are"
            head = f"{course.method}: {len(lost)} of {scored} facts looked at {verb} lost: "
            said.append([head, *shown, more])
    if course.collapse is not None and course.collapse <= edits:
        said.append([f"{course.method}: collapse set in at {course.collapse:,} edits."])
    return said
