"""Scans that are to be compared: whether they can be, and what they are called."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

# Settings that change P a little, so that scans which differ in them are compared with a warning.
_TOLD = ("num_documents", "document_length", "ridge", "shrinkage", "dtype", "until")


@dataclasses.dataclass(frozen=True)
class ComparedScan:
    """A finished scan.

    Attributes:
      label: what it is called beside the others.
      run: its folder, for messages.
      record: the content of its `scan.json`.
      superposition: gives P of one of its layers, `(n, n)`.
    """

    label: str
    run: str
    record: Mapping[str, Any]
    superposition: Callable[[int], np.ndarray]

    @property
    def key_dimension(self) -> int:
        """The width of its keys, which is the rank of its whiteners."""
        return int(self.record["architecture"]["key_dimension"])

    def depth(self, layer: int) -> float:
        """Of a layer: 0 at the first of the model, 1 at the last."""
        return layer / max(1, int(self.record["architecture"]["num_layers"]) - 1)

    def layer_at(self, depth: float) -> int:
        """The scanned layer nearest to a relative depth, the later of two."""
        layers = [layer["layer"] for layer in self.record["layers"]]
        return min(layers, key=lambda layer: (round(abs(self.depth(layer) - depth), 9), -layer))


def check_comparable(scans: Sequence[ComparedScan]) -> list[str]:
    """Checks that scans measured the same of different models.

    Returns:
      The settings in which they differ without P becoming another quantity.

    Raises:
      ValueError: if a scan has no controls, was of other facts or of other tokens of them, or if
        a folder is named twice.
    """
    runs = [str(Path(scan.run).resolve()) for scan in scans]
    twice = sorted({run for run in runs if runs.count(run) > 1})
    if twice:
        raise ValueError(f"runs: expected different scans, found {twice[0]} twice")
    for scan in scans:
        _check_shape(scan)
        if not all("controls" in layer for layer in scan.record["layers"]):
            raise ValueError(
                f"{scan.run}: expected a scan with controls, found one of an earlier kis_jax; run "
                "its `kis scan` again, which uses the second moments that are there"
            )
    first = scans[0]
    for scan in scans[1:]:
        _check_facts(first, scan)
        positions = [one.record["settings"].get("position") for one in (first, scan)]
        if positions[0] != positions[1]:
            raise ValueError(
                f"runs: expected keys of the same tokens, found --position {positions[0]} in "
                f"{first.run} and {positions[1]} in {scan.run}; scan one of them again"
            )
    told = [name for name in _TOLD if _differ(scan.record["settings"].get(name) for scan in scans)]
    corpora = (scan.record["fingerprints"].get("corpus") for scan in scans)
    return ["corpus", *told] if _differ(corpora) else told


def _check_shape(scan: ComparedScan) -> None:
    """Raises ValueError if the sizes of the model are not those that a scan writes."""
    shape, settings = (scan.record.get(name) for name in ("architecture", "settings"))
    needed, told = ("num_layers", "key_dimension"), ("num_parameters", "width")
    if (
        not isinstance(settings, Mapping)
        or not isinstance(shape, Mapping)
        or not all(type(shape.get(name)) is int and shape[name] > 0 for name in needed)
        or not all(type(shape.get(name)) in (int, type(None)) for name in told)
        or type(scan.record.get("token_count")) is not int
    ):
        raise ValueError(
            f"{scan.run}: expected a scan.json with `settings`, `token_count` and an "
            f"`architecture` of {', '.join(needed + told)} as kis scan writes it, found other or "
            "none; run its `kis scan` again into a fresh folder"
        )


def _differ(values: Any) -> bool:
    return len({repr(value) for value in values}) > 1


def _check_facts(first: ComparedScan, other: ComparedScan) -> None:
    of_first, of_other = (
        [(fact["prompt"], fact["subject"]) for fact in scan.record["facts"]]
        for scan in (first, other)
    )
    if of_first == of_other:
        return
    remedy = (
        "P can be compared over the same facts alone, so scan one again with the facts of the other"
    )
    if len(of_first) != len(of_other):
        raise ValueError(
            f"runs: expected scans of the same facts, found {len(of_first)} in {first.run} and "
            f"{len(of_other)} in {other.run}; {remedy} and --num-facts "
            f"{min(len(of_first), len(of_other))}"
        )
    pairs = zip(of_first, of_other, strict=True)
    place = next(place for place, (one, two) in enumerate(pairs) if one != two)
    raise ValueError(
        f"runs: expected scans of the same facts, found that fact {place} (counted from 0) is "
        f"about {of_first[place][1]!r} in {first.run} and {of_other[place][1]!r} in {other.run}; "
        f"{remedy}"
    )
