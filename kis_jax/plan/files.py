"""`plan.json`, read back and checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kis_jax.report.record_files import number, read_record

FORMAT = 1


@dataclass(frozen=True)
class PlannedFact:
    """A fact to be edited; `sides` is its prompt before and after the subject."""

    index: int
    case_id: int | str
    subject: str
    sides: tuple[str, str]
    target: str


@dataclass(frozen=True)
class Point:
    """What is foreseen after some number of edits."""

    num_edits: int
    displacement: float
    kept: float
    effect: float
    carried: float
    score: float


@dataclass(frozen=True)
class Rehearsed:
    """What one method at one layer did to a sample of prompts, in memory."""

    effect: float
    carried: float
    stays: float
    score: float


@dataclass(frozen=True)
class Displaced:
    """A text to be left alone, and how far it is displaced."""

    text: str
    displacement: float


@dataclass(frozen=True)
class Choice:
    """One method at one layer."""

    method: str
    displacement: float
    kept: float
    effect: float
    carried: float
    score: float
    rehearsal: Rehearsed | None
    edits_within_bound: int
    most_displaced: tuple[Displaced, ...]
    curve: tuple[Point, ...]

    @property
    def standing(self) -> float:
        """The score by which choices are compared: that of the rehearsal, if there was one."""
        return self.score if self.rehearsal is None else self.rehearsal.score


@dataclass(frozen=True)
class Collision:
    """Two facts of which one's edit lands on the other, by their places."""

    edit: int
    touched: int
    superposition: float
    reverse: float
    near_duplicate: bool


@dataclass(frozen=True)
class PlannedLayer:
    """One layer."""

    index: int
    num_collisions: int
    num_near_duplicates: int
    reached: float
    pairs: tuple[Collision, ...]
    clusters: tuple[tuple[int, ...], ...]
    choices: tuple[Choice, ...]

    @property
    def best(self) -> Choice:
        """The method with the best score."""
        return max(self.choices, key=lambda choice: choice.standing)

    def choice(self, method: str) -> Choice | None:
        """A method here; None if this layer does not admit it."""
        return next((choice for choice in self.choices if choice.method == method), None)


@dataclass(frozen=True)
class Plan:
    """A finished plan."""

    version: str
    model: str
    family: str
    fingerprints: Mapping[str, str]
    settings: Mapping[str, Any]
    default_layer: int
    token_count: int
    num_others: int
    facts: tuple[PlannedFact, ...]
    contradictions: tuple[tuple[int, int], ...]
    repetitions: tuple[tuple[int, int], ...]
    suspected: tuple[tuple[int, int], ...]
    layers: tuple[PlannedLayer, ...]
    layer: int
    method: str
    order: tuple[int, ...] | None

    @property
    def recommended(self) -> PlannedLayer:
        """The layer that is recommended."""
        return next(layer for layer in self.layers if layer.index == self.layer)

    def _repr_html_(self) -> str:
        """The plan in a notebook."""
        from kis_jax.plan.figures import by_layer
        from kis_jax.report import document, style, words

        layer, choice = self.recommended, self.choice
        pairs = [
            [self.facts[p.edit].subject, self.facts[p.touched].subject]
            + [words.number(value) for value in (p.superposition, p.reverse)]
            for p in layer.pairs[:5]
        ]
        return document.card(
            f"Plan of {len(self.facts)} edits of {words.title(self.model)}",
            [
                f"Recommended: layer {self.layer}, {self.method}",
                f"Effect {words.number(choice.effect)}, other knowledge displaced by "
                f"{words.number(choice.displacement)} lengths of the residual stream",
                f"{layer.num_collisions} pairs of facts collide there",
            ],
            picture=style.png(by_layer(self.layers)),
            alt="Effect of the edits and displacement of the rest by layer, for each method.",
            head=("An edit of", "also lands on", "p", "back"),
            rows=pairs,
        )

    @property
    def choice(self) -> Choice:
        """The method that is recommended, at its layer."""
        return next(each for each in self.recommended.choices if each.method == self.method)


def read_plan(directory: Path | str) -> Plan:
    """Reads `plan.json`; in a notebook the result shows itself.

    Args:
      directory: where `kis plan` wrote its files.

    Returns:
      The record, checked.

    Raises:
      ValueError: when the file is missing, is no JSON, has another format, or lacks an entry.

    Examples:
      >>> read_plan("no-such-folder")
      Traceback (most recent call last):
      ...
      ValueError: no-such-folder/plan.json: no such file; name the directory of a finished ...
    """
    return read_record(
        Path(directory) / "plan.json", command="kis plan", format=FORMAT, parse=_plan
    )


def _plan(record: Mapping[str, Any]) -> Plan:
    chosen = record["recommendation"]
    order = chosen["order"]
    return Plan(
        version=str(record["version"]),
        model=str(record["model"]),
        family=str(record["family"]),
        fingerprints={name: str(value) for name, value in record["fingerprints"].items()},
        settings=dict(record["settings"]),
        default_layer=int(record["edit_settings"]["layer"]),
        token_count=int(record["token_count"]),
        num_others=int(record["num_others"]),
        facts=tuple(_fact(index, fact) for index, fact in enumerate(record["facts"])),
        contradictions=tuple((int(i), int(j)) for i, j in record["contradictions"]),
        repetitions=tuple((int(i), int(j)) for i, j in record["repetitions"]),
        suspected=tuple((int(i), int(j)) for i, j, _ in record.get("suspected", ())),
        layers=tuple(map(_layer, record["layers"])),
        layer=int(chosen["layer"]),
        method=str(chosen["method"]),
        order=None if order is None else tuple(map(int, order)),
    )


def _fact(index: int, record: Mapping[str, Any]) -> PlannedFact:
    before, _, after = str(record["prompt"]).partition("{}")
    return PlannedFact(
        index, record["case_id"], str(record["subject"]), (before, after), record["target"]
    )


def _layer(record: Mapping[str, Any]) -> PlannedLayer:
    return PlannedLayer(
        index=int(record["layer"]),
        num_collisions=int(record["num_collisions"]),
        num_near_duplicates=int(record["num_near_duplicates"]),
        reached=number(record["reached"]),
        pairs=tuple(map(_collision, record["pairs"])),
        clusters=tuple(tuple(map(int, cluster)) for cluster in record["clusters"]),
        choices=tuple(map(_choice, record["methods"])),
    )


def _collision(record: Mapping[str, Any]) -> Collision:
    return Collision(
        int(record["edit"]),
        int(record["touched"]),
        number(record["superposition"]),
        number(record["reverse"]),
        bool(record["near_duplicate"]),
    )


def _choice(record: Mapping[str, Any]) -> Choice:
    names = ("displacement", "kept", "effect", "carried", "score")
    rehearsal = record["rehearsal"]
    return Choice(
        str(record["method"]),
        *(number(record[name]) for name in names),
        rehearsal=None if rehearsal is None else _rehearsed(rehearsal),
        edits_within_bound=int(record["edits_within_bound"]),
        most_displaced=tuple(
            Displaced(str(each["text"]), number(each["displacement"]))
            for each in record.get("most_displaced", ())
        ),
        curve=tuple(map(_point, record["curve"])),
    )


def _rehearsed(record: Mapping[str, Any]) -> Rehearsed:
    names = ("effect", "carried", "stays", "score")
    return Rehearsed(*(number(record[name]) for name in names))


def _point(record: Mapping[str, Any]) -> Point:
    names = ("displacement", "kept", "effect", "carried", "score")
    return Point(int(record["num_edits"]), *(number(record[name]) for name in names))
