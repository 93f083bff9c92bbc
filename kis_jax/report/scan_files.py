"""The files of a finished scan, read back and checked.

A report is drawn from these files alone. Whatever is wrong with them comes as one `ValueError`
that names the file and the remedy, before anything is written.
"""

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kis_jax.report.record_files import number, read_record

FORMAT = 1
REMEDY = "run `kis scan` again into a fresh directory"
MATRICES = ("superposition", "whitening_cosine", "activation_cosine")


@dataclass(frozen=True)
class Fact:
    """A fact as the scan saw it."""

    index: int
    case_id: int | str | None
    subject: str
    prompt: str
    target: str
    relation: str
    token: str
    duplicate_of: int | None

    @property
    def first_of_subject(self) -> int:
        """The index of the first fact with this one's subject."""
        return self.index if self.duplicate_of is None else self.duplicate_of

    @property
    def sides(self) -> tuple[str, str]:
        """The prompt before and after its subject."""
        before, _, after = self.prompt.partition("{}")
        return before, after


@dataclass(frozen=True)
class Pair:
    """Two facts and the superposition both ways."""

    edit: Fact
    touched: Fact
    superposition: float
    reverse: float

    @property
    def same_subject(self) -> bool:
        """Whether both facts are about one subject."""
        return self.edit.first_of_subject == self.touched.first_of_subject


@dataclass(frozen=True)
class Convergence:
    """Kurtosis over random subsets of the facts, one entry for each size of subset."""

    num_facts: np.ndarray
    kurtosis: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True)
class Layer:
    """Statistics of the off-diagonal entries of one layer's P. NaN: not a finite number."""

    index: int
    mean: float
    std: float
    skewness: float
    kurtosis: float
    max: float
    condition: float
    kurtosis_without_duplicates: float
    pairs: tuple[Pair, ...]
    convergence: Convergence


@dataclass(frozen=True)
class Scan:
    """A finished scan: all of `scan.json`; the matrices stay on disk until asked for."""

    directory: Path
    version: str
    model: str
    family: str
    architecture: Mapping[str, Any]
    fingerprints: Mapping[str, str]
    settings: Mapping[str, Any]
    token_count: int | None
    document_count: int | None
    facts: tuple[Fact, ...]
    layers: tuple[Layer, ...]

    def matrices(self, layer: int) -> dict[str, np.ndarray]:
        """The (n, n) matrices of one layer that the figures need.

        Raises:
          ValueError: when the file is missing, damaged or of another shape than the scan's facts.
        """
        path = self.directory / f"layer_{layer:03d}.npz"
        try:
            # Opened here: `np.load` by name leaks its handle when the file is damaged.
            with path.open("rb") as file, np.load(file) as arrays:
                found = {name: np.asarray(arrays[name], dtype=np.float64) for name in MATRICES}
        except FileNotFoundError:
            raise ValueError(f"{path}: no such file, but scan.json lists it; {REMEDY}") from None
        except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path}: cannot be read ({error}); {REMEDY}") from error
        expected = (len(self.facts), len(self.facts))
        for name, matrix in found.items():
            if matrix.shape != expected:
                raise ValueError(
                    f"{path}: `{name}` has shape {matrix.shape}, but scan.json lists "
                    f"{expected[0]} facts, so {expected} was expected; {REMEDY}"
                )
        return found


def read_scan(directory: Path) -> Scan:
    """Read `scan.json`.

    Args:
      directory: where `kis scan` wrote its files.

    Returns:
      The scan; numbers that were not finite (null in the file) are NaN.

    Raises:
      ValueError: when the file is missing, is no JSON, has another format, or lacks an entry.
    """
    return read_record(
        directory / "scan.json",
        command="kis scan",
        format=FORMAT,
        parse=lambda record: _scan(directory, record),
    )


def _scan(directory: Path, record: Mapping[str, Any]) -> Scan:
    facts = tuple(_fact(index, fact) for index, fact in enumerate(record["facts"]))
    layers = tuple(_layer(layer, facts) for layer in record["layers"])
    if not facts or not layers:
        raise ValueError("at least one fact and one layer are needed")
    return Scan(
        directory=directory,
        version=str(record["version"]),
        model=str(record["model"]),
        family=str(record["family"]),
        architecture=dict(record["architecture"]),
        fingerprints={name: str(value) for name, value in record["fingerprints"].items()},
        settings=dict(record["settings"]),
        token_count=record["token_count"],
        document_count=record["document_count"],
        facts=facts,
        layers=layers,
    )


def _fact(index: int, record: Mapping[str, Any]) -> Fact:
    texts = {
        name: str(record[name]) for name in ("subject", "prompt", "target", "relation", "token")
    }
    duplicate_of = record["duplicate_of"]
    return Fact(
        index=index,
        case_id=record["case_id"],
        duplicate_of=None if duplicate_of is None else int(duplicate_of),
        **texts,
    )


def _layer(record: Mapping[str, Any], facts: tuple[Fact, ...]) -> Layer:
    numbers = {
        name: number(record[name])
        for name in (
            "mean",
            "std",
            "skewness",
            "kurtosis",
            "max",
            "condition",
            "kurtosis_without_duplicates",
        )
    }
    steps = record["convergence"]
    columns = {
        name: np.array([number(step[name]) for step in steps], dtype=np.float64)
        for name in ("num_facts", "kurtosis", "low", "high")
    }
    return Layer(
        index=int(record["layer"]),
        pairs=tuple(_pair(pair, facts) for pair in record["pairs"]),
        convergence=Convergence(**columns),
        **numbers,
    )


def _pair(record: Mapping[str, Any], facts: tuple[Fact, ...]) -> Pair:
    edit, touched = int(record["edit"]), int(record["touched"])
    if min(edit, touched) < 0:
        raise IndexError(f"the pair ({edit}, {touched}) names no fact")
    return Pair(
        edit=facts[edit],
        touched=facts[touched],
        superposition=number(record["superposition"]),
        reverse=number(record["reverse"]),
    )
