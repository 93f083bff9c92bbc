"""`compare.json`, read back and checked: all that a comparison draws comes from it."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kis_jax.report.record_files import number, read_record
from kis_jax.report.scan_files import Convergence, convergence_of

FORMAT = 1
# What a page shows of every model: of each layer, and the means and their laws against the sizes.
LAYER_MEASURES = (
    "kurtosis",
    "kurtosis_distinct_subjects",
    "kurtosis_other_tokens",
    "kurtosis_random_directions",
    "bulk_std_times_sqrt_rank",
    "bulk_other_tokens",
    "tail_fraction",
)
MEASURES = (*LAYER_MEASURES, "kurtosis_width_alone")
SIZES = ("num_parameters", "width", "key_dimension")


@dataclass(frozen=True)
class ComparedLayer:
    """The measures of one layer by their names; NaN: not a finite number."""

    index: int
    depth: float
    measures: Mapping[str, float]


@dataclass(frozen=True)
class ComparedModel:
    """A model of a comparison.

    `superposition` holds P of its layer `drawn` to a part in 127, `counts` the histogram of
    P times the root of its rank between `ends`, `beyond` how many entries lie outside.
    """

    label: str
    run: str
    model: str
    family: str
    sizes: Mapping[str, float]
    means: Mapping[str, float]
    layers: tuple[ComparedLayer, ...]
    drawn: int
    superposition: np.ndarray
    counts: np.ndarray
    ends: tuple[float, float]
    beyond: int
    convergence: Convergence


@dataclass(frozen=True)
class Law:
    """A power law of one measure in one size; NaN where it could not be fitted."""

    measure: str
    against: str
    models: tuple[int, ...]
    left_out: tuple[int, ...]
    exponent: float
    logarithm: float
    low: float
    high: float
    explained: float


@dataclass(frozen=True)
class PairFact:
    """A fact of a pair."""

    index: int
    prompt: str
    subject: str
    target: str

    @property
    def sides(self) -> tuple[str, str]:
        """The prompt before and after its subject."""
        before, _, after = self.prompt.partition("{}")
        return before, after


@dataclass(frozen=True)
class SharedPair:
    """A pair of facts among the strongest of several models; its P in each of all models."""

    facts: tuple[PairFact, PairFact]
    models: tuple[int, ...]
    superposition: tuple[float, ...]


@dataclass(frozen=True)
class Overlap:
    """How many of their strongest pairs two models share."""

    first: str
    second: str
    shared: int
    expected: float
    probability: float


@dataclass(frozen=True)
class Comparison:
    """A finished comparison."""

    version: str
    depth: float
    num_facts: int
    differences: tuple[str, ...]
    models: tuple[ComparedModel, ...]
    laws: tuple[Law, ...]
    top: int
    candidates: int
    overlaps: tuple[Overlap, ...]
    shared: tuple[SharedPair, ...]

    def law(self, measure: str, against: str) -> Law:
        """The law of a measure in a size."""
        (law,) = (law for law in self.laws if (law.measure, law.against) == (measure, against))
        return law


def read_comparison(directory: Path) -> Comparison:
    """Reads `compare.json`.

    Raises:
      ValueError: when the file is missing, is no JSON, has another format, or lacks an entry.
    """
    path = directory / "compare.json"
    return read_record(path, command="kis compare", format=FORMAT, parse=_comparison)


def _comparison(record: Mapping[str, Any]) -> Comparison:
    models = tuple(_model(model) for model in record["models"])
    if not all(model.layers for model in models) or not models:
        raise ValueError("at least one model of at least one layer is needed")
    pairs = record["pairs"]
    laws = tuple(_law(law, len(models)) for law in record["laws"])
    missing = {(name, size) for name in MEASURES for size in SIZES} - {
        (law.measure, law.against) for law in laws
    }
    if missing:
        raise ValueError("no law of {} against {}".format(*min(missing)))
    return Comparison(
        version=str(record["version"]),
        depth=float(record["depth"]),
        num_facts=int(record["num_facts"]),
        differences=tuple(map(str, record["differences"])),
        models=models,
        laws=laws,
        top=int(pairs["top"]),
        candidates=int(pairs["candidates"]),
        overlaps=tuple(
            Overlap(
                str(found["first"]),
                str(found["second"]),
                int(found["shared"]),
                float(found["expected"]),
                float(found["probability"]),
            )
            for found in pairs["overlaps"]
        ),
        shared=tuple(_shared(pair, len(models)) for pair in pairs["shared"]),
    )


def _model(record: Mapping[str, Any]) -> ComparedModel:
    drawn = record["drawn"]
    density, side = drawn["density"], int(drawn["heatmap"]["side"])
    levels = np.frombuffer(base64.b64decode(drawn["heatmap"]["levels"]), np.uint8)
    matrix = np.where(levels == 255, np.nan, (levels.astype(np.float64) - 127) / 127)
    sizes = ("num_layers", "num_parameters", "width", "key_dimension", "token_count")
    return ComparedModel(
        label=str(record["label"]),
        run=str(record["run"]),
        model=str(record["model"]),
        family=str(record["family"]),
        sizes={name: number(record[name]) for name in sizes},
        means={name: number(record["means"][name]) for name in MEASURES},
        layers=tuple(
            ComparedLayer(
                int(layer["layer"]),
                float(layer["depth"]),
                {name: number(layer[name]) for name in LAYER_MEASURES},
            )
            for layer in record["layers"]
        ),
        drawn=int(drawn["layer"]),
        superposition=matrix.reshape(side, side),
        counts=_counts(density["counts"]),
        ends=(float(density["from"]), float(density["to"])),
        beyond=int(density["beyond"]),
        convergence=convergence_of(drawn["convergence"]),
    )


def _counts(found: list[int]) -> np.ndarray:
    counts = np.array(found, np.float64)
    if counts.ndim != 1 or not counts.size:
        raise ValueError("a density of at least one count is needed")
    return counts


def _law(record: Mapping[str, Any], num_models: int) -> Law:
    numbers = (number(record[n]) for n in ("exponent", "logarithm", "low", "high", "explained"))
    return Law(
        str(record["measure"]),
        str(record["against"]),
        _places(record["models"], num_models),
        _places(record["left_out"], num_models),
        *numbers,
    )


def _shared(record: Mapping[str, Any], num_models: int) -> SharedPair:
    first, second = (
        PairFact(int(f["index"]), str(f["prompt"]), str(f["subject"]), str(f["target"]))
        for f in record["facts"]
    )
    values = tuple(number(value) for value in record["superposition"])
    return SharedPair((first, second), _places(record["models"], num_models), values)


def _places(places: list[int], num_models: int) -> tuple[int, ...]:
    if not all(0 <= place < num_models for place in places):
        raise ValueError(f"places of models from 0 to {num_models - 1} are needed, not {places}")
    return tuple(map(int, places))
