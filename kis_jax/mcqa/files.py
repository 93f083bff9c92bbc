"""`mcqa.json`, read back and checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kis_jax.report.record_files import number, read_record

FORMAT = 1


@dataclass(frozen=True)
class Accuracy:
    """A share of puzzles or groups, and the interval that holds it."""

    mean: float
    low: float
    high: float
    count: int


@dataclass(frozen=True)
class Answered:
    """A puzzle and what was taken for its answer."""

    id: str
    variant: str
    question: str
    choices: tuple[str, ...]
    answer: int
    taken: int

    @property
    def right(self) -> bool:
        """Whether it was."""
        return self.answer == self.taken


@dataclass(frozen=True)
class Way:
    """One way of scoring; `confusion` is `(c, c)`, the right choice by the one taken."""

    name: str
    metrics: Mapping[str, Accuracy]
    confusion: np.ndarray
    answered: tuple[Answered, ...]


@dataclass(frozen=True)
class McqaRun:
    """A finished evaluation on puzzles."""

    version: str
    model: str
    family: str
    settings: Mapping[str, Any]
    fingerprints: Mapping[str, str]
    num_puzzles: int
    num_choices: int
    ways: tuple[Way, ...]


def read_mcqa(directory: Path) -> McqaRun:
    """Reads `mcqa.json`.

    Raises:
      ValueError: when the file is missing, is no JSON, has another format, lacks an entry, or is of
        an evaluation without right answers.
    """
    return read_record(directory / "mcqa.json", command="kis mcqa eval", format=FORMAT, parse=_run)


def _run(record: Mapping[str, Any]) -> McqaRun:
    ways = tuple(_way(method, record["puzzles"]) for method in record["methods"])
    if not ways:
        raise ValueError("at least one way of scoring is needed")
    return McqaRun(
        version=str(record["version"]),
        model=str(record["model"]),
        family=str(record["family"]),
        settings=dict(record["settings"]),
        fingerprints={name: str(value) for name, value in record["fingerprints"].items()},
        num_puzzles=int(record["num_puzzles"]),
        num_choices=int(record["num_choices"]),
        ways=ways,
    )


def _way(record: Mapping[str, Any], puzzles: list[Mapping[str, Any]]) -> Way:
    if record["metrics"] is None:
        raise ValueError("right answers are needed for a page")
    return Way(
        name=str(record["method"]),
        metrics={name: _accuracy(found) for name, found in record["metrics"].items()},
        confusion=np.array(record["confusion"], np.int64),
        answered=tuple(
            Answered(
                str(puzzle["id"]),
                str(puzzle["variant"]),
                str(puzzle["question"]),
                tuple(map(str, puzzle["choices"])),
                int(puzzle["answer"]),
                int(taken),
            )
            for puzzle, taken in zip(puzzles, record["predictions"], strict=True)
        ),
    )


def _accuracy(record: Mapping[str, Any]) -> Accuracy:
    ends = (number(record[name]) for name in ("mean", "low", "high"))
    return Accuracy(*ends, count=int(record["count"]))
