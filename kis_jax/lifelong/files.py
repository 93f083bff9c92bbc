"""`lifelong.json`, read back and checked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kis_jax.report.record_files import number, read_record

FORMAT = 1


@dataclass(frozen=True)
class EditedFact:
    """A fact that was to be edited; `sides` is its prompt before and after the subject."""

    subject: str
    sides: tuple[str, str]
    target: str


@dataclass(frozen=True)
class Score:
    """A mean over facts, and the interval that holds it. NaN: no fact tells."""

    mean: float
    low: float
    high: float
    count: int


@dataclass(frozen=True)
class Moved:
    """How far the values of one group of keys were moved, and how far the forecast had it."""

    count: int
    measured: float
    predicted: float
    largest: float
    error: float


@dataclass(frozen=True)
class Checkpoint:
    """All that was measured after some number of edits.

    `lost` are the places of facts that had been edited and no longer stand; None in runs of
    before they were listed.
    """

    edits: int
    made: int
    metrics: Mapping[str, Score]
    unedited: Mapping[str, float]
    perplexity: float
    fluency: float
    probes: Mapping[str, float]
    update: float
    interference: Mapping[str, Moved]
    lost: tuple[int, ...] | None

    def score(self, name: str) -> Score:
        """A metric; NaN where there is none."""
        return self.metrics.get(name, Score(np.nan, np.nan, np.nan, 0))

    @property
    def worst_error(self) -> float:
        """The greatest relative error of a forecast here; NaN if there was none."""
        return _greatest(moved.error for moved in self.interference.values())


@dataclass(frozen=True)
class Sign:
    """A metric beyond its limit."""

    metric: str
    value: float
    limit: float


@dataclass(frozen=True)
class Course:
    """One method, from the first edit to the last; `collapse` is the number of edits, or None."""

    method: str
    targets: str | None
    left_out: int
    collapse: int | None
    signs: tuple[Sign, ...]
    checkpoints: tuple[Checkpoint, ...]

    @property
    def last(self) -> Checkpoint:
        """The last checkpoint."""
        return self.checkpoints[-1]

    def curve(self, name: str) -> np.ndarray:
        """A metric over the checkpoints: rows of mean, low and high, `(c, 3)`."""
        scores = [point.score(name) for point in self.checkpoints]
        return np.array([(score.mean, score.low, score.high) for score in scores])


@dataclass(frozen=True)
class Lifelong:
    """A finished lifelong run."""

    version: str
    model: str
    family: str
    layer: int
    fingerprints: Mapping[str, str]
    settings: Mapping[str, Any]
    edit_settings: Mapping[str, Any]
    definition: str
    token_count: int
    facts: tuple[EditedFact, ...]
    failures: int
    unedited_perplexity: float
    unedited_fluency: float
    unedited_probes: Mapping[str, float]
    courses: tuple[Course, ...]

    def _repr_html_(self) -> str:
        """The run in a notebook."""
        from kis_jax.lifelong.figures import scores
        from kis_jax.report import document, style, words

        names = ("efficacy", "retention", "paraphrase", "neighborhood")
        rows = [
            [
                course.method,
                words.count(course.last.edits),
                *(words.number(course.last.score(name).mean) for name in names),
                "–" if course.collapse is None else words.count(course.collapse),
            ]
            for course in self.courses
        ]
        return document.card(
            f"Lifelong editing of {words.title(self.model)}, layer {self.layer}",
            [f"{self.num_facts} facts, {len(self.courses)} methods"],
            picture=style.png(scores(self.courses)),
            alt="Efficacy, retention, paraphrase and neighborhood by number of edits and method.",
            head=("Method", "Edits", *(name.capitalize() for name in names), "Collapse at"),
            rows=rows,
        )

    @property
    def num_facts(self) -> int:
        """How many facts were to be edited."""
        return len(self.facts)

    @property
    def worst_error(self) -> float:
        """The greatest relative error of a forecast; NaN if there was none."""
        points = [point for course in self.courses for point in course.checkpoints]
        return _greatest(point.worst_error for point in points)


def read_lifelong(directory: Path | str) -> Lifelong:
    """Reads `lifelong.json`; in a notebook the result shows itself.

    Args:
      directory: where `kis lifelong` wrote its files.

    Returns:
      The record, checked.

    Raises:
      ValueError: when the file is missing, is no JSON, has another format, or lacks an entry.

    Examples:
      >>> read_lifelong("no-such-folder")
      Traceback (most recent call last):
      ...
      ValueError: no-such-folder/lifelong.json: no such file; name the directory of a finished ...
    """
    return read_record(
        Path(directory) / "lifelong.json", command="kis lifelong", format=FORMAT, parse=_lifelong
    )


def _lifelong(record: Mapping[str, Any]) -> Lifelong:
    courses = tuple(_course(course) for course in record["methods"])
    if not courses:
        raise ValueError("at least one method is needed")
    return Lifelong(
        version=str(record["version"]),
        model=str(record["model"]),
        family=str(record["family"]),
        layer=int(record["layer"]),
        fingerprints={name: str(value) for name, value in record["fingerprints"].items()},
        settings=dict(record["settings"]),
        edit_settings=dict(record["edit_settings"]),
        definition=str(record["collapse_definition"]),
        token_count=int(record["token_count"]),
        facts=tuple(map(_fact, record["facts"])),
        failures=sum(fact["failure"] is not None for fact in record["facts"]),
        unedited_perplexity=number(record["unedited"]["perplexity"]),
        unedited_fluency=number(record["unedited"]["fluency"]),
        unedited_probes=_numbers(record["unedited"]["probes"]),
        courses=courses,
    )


def _fact(record: Mapping[str, Any]) -> EditedFact:
    before, _, after = str(record["prompt"]).partition("{}")
    return EditedFact(str(record["subject"]), (before, after), str(record["target"]))


def _course(record: Mapping[str, Any]) -> Course:
    collapse = record["collapse"]
    points = tuple(_checkpoint(point) for point in record["checkpoints"])
    if not points:
        raise ValueError(f"at least one checkpoint is needed of {record['method']}")
    return Course(
        method=str(record["method"]),
        targets=record["targets"],
        left_out=len(record["left_out"]),
        collapse=None if collapse is None else int(collapse["edits"]),
        signs=tuple(map(_sign, collapse["signs"] if collapse else ())),
        checkpoints=points,
    )


def _checkpoint(record: Mapping[str, Any]) -> Checkpoint:
    return Checkpoint(
        edits=int(record["edits"]),
        made=int(record["made"]),
        metrics={name: _score(score) for name, score in record["metrics"].items()},
        unedited=_numbers(record["unedited"]),
        perplexity=number(record["perplexity"]),
        fluency=number(record["fluency"]),
        probes=_numbers(record["probes"]),
        update=number(record["update"]["relative"]),
        interference={name: _moved(moved) for name, moved in record["interference"].items()},
        lost=None if record.get("lost") is None else tuple(map(int, record["lost"])),
    )


def _score(record: Mapping[str, Any]) -> Score:
    ends = (number(record[name]) for name in ("mean", "low", "high"))
    return Score(*ends, count=int(record["count"]))


def _moved(record: Mapping[str, Any]) -> Moved:
    names = ("measured", "predicted", "largest", "error")
    return Moved(int(record["count"]), *(number(record[name]) for name in names))


def _sign(record: Mapping[str, Any]) -> Sign:
    return Sign(str(record["metric"]), number(record["value"]), number(record["limit"]))


def _numbers(record: Mapping[str, Any]) -> dict[str, float]:
    return {str(name): number(value) for name, value in record.items()}


def _greatest(values: Iterable[float]) -> float:
    """The greatest of those that are finite."""
    return max((value for value in values if np.isfinite(value)), default=np.nan)
