"""The files of a finished scan, read back and checked.

A report is drawn from these files alone. Whatever is wrong with them comes as one `ValueError`
that names the file and the remedy, before anything is written.
"""

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from kis_jax.report.record_files import number, read_record

FORMAT = 1
REMEDY = "run `kis scan` again into a fresh directory"
MATRICES = ("superposition", "whitening_cosine", "activation_cosine")
# A number for each key; scans of before there was an atlas have none of them.
ROWS = ("whitened_norms", "strongest_random_directions", "strongest_other_tokens")


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
    """Kurtosis over random subsets of the facts, one entry for each size of subset.

    `low` to `high` is where nine of ten subsets lie, `bootstrap_low` to `bootstrap_high` the 95 %
    interval of a bootstrap over facts; NaN in scans of kis_jax before it had one.
    """

    num_facts: np.ndarray
    kurtosis: np.ndarray
    low: np.ndarray
    high: np.ndarray
    bootstrap_low: np.ndarray
    bootstrap_high: np.ndarray


@dataclass(frozen=True)
class Control:
    """What the statistics of P are for keys that are not those of these facts."""

    num_keys: int
    mean: float
    std: float
    skewness: float
    kurtosis: float
    max: float
    bulk_std_times_sqrt_rank: float
    tail_fraction: float


@dataclass(frozen=True)
class Layer:
    """Statistics of the off-diagonal entries of one layer's P. NaN: not a finite number.

    A scan of kis_jax before it measured controls has none, and NaN for the two measures that are
    free of the width.
    """

    index: int
    mean: float
    std: float
    skewness: float
    kurtosis: float
    max: float
    condition: float
    kurtosis_without_duplicates: float
    bulk_std_times_sqrt_rank: float
    tail_fraction: float
    shrinkage: float | None
    controls: Mapping[str, Control]
    pairs: tuple[Pair, ...]
    convergence: Convergence


@dataclass(frozen=True)
class Scan:
    """A finished scan: all of `scan.json`; the matrices stay on disk until asked for.

    `record` is the JSON object itself, which has been checked.
    """

    directory: Path
    version: str
    model: str
    family: str
    architecture: Mapping[str, Any]
    fingerprints: Mapping[str, str]
    settings: Mapping[str, Any]
    token_count: int | None
    document_count: int | None
    second_moment_convergence: tuple[tuple[int, np.ndarray], ...]
    facts: tuple[Fact, ...]
    layers: tuple[Layer, ...]
    record: Mapping[str, Any] = field(repr=False)

    @property
    def page(self) -> Path:
        """The page of the scan: its atlas."""
        return self.directory / "report.html"

    def _repr_html_(self) -> str:
        """The scan in a notebook."""
        from kis_jax.report import document, words  # which import this file

        picture = self.directory / "figures" / "layers_at_a_glance.png"
        kurtosis = words.between([layer.kurtosis for layer in self.layers])
        rows = []
        if found := words.strongest(self.layers, distinct=True):
            layer = found[0]
            apart = [pair for pair in layer.pairs if not pair.same_subject][:5]
            rows = [
                [
                    p.edit.subject,
                    p.touched.subject,
                    *map(words.number, (p.superposition, p.reverse)),
                ]
                for p in apart
            ]
        where = f", at layer {found[0].index}" if found else ""
        return document.card(
            f"Scan of {words.title(self.model)}",
            [
                f"{len(self.facts)} facts at {len(self.layers)} layers; excess kurtosis of P: "
                f"{kurtosis}",
                words.duplicates(self.facts),
            ],
            picture=picture.read_bytes() if picture.is_file() else None,
            alt="Kurtosis, bulk and tail by layer, beside the band of their controls.",
            head=(f"An edit of{where}", "also lands on", "p", "back"),
            rows=rows,
            page=self.page if self.page.is_file() else None,
        )

    def matrices(self, layer: int) -> dict[str, np.ndarray]:
        """The (n, n) matrices of one layer that a page needs, and those of `ROWS` that it has.

        Raises:
          ValueError: when the file is missing, damaged or of another shape than the scan's facts.
        """
        path = self.directory / f"layer_{layer:03d}.npz"
        try:
            # Opened here: `np.load` by name leaks its handle when the file is damaged.
            with path.open("rb") as file, np.load(file) as arrays:
                names = (*MATRICES, *(name for name in ROWS if name in arrays))
                found = {name: np.asarray(arrays[name], dtype=np.float64) for name in names}
        except FileNotFoundError:
            raise ValueError(f"{path}: no such file, but scan.json lists it; {REMEDY}") from None
        except (OSError, EOFError, KeyError, ValueError, TypeError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path}: cannot be read ({error}); {REMEDY}") from error
        expected = (len(self.facts), len(self.facts))
        for name in MATRICES:
            if found[name].shape != expected:
                raise ValueError(
                    f"{path}: `{name}` has shape {found[name].shape}, but scan.json lists "
                    f"{expected[0]} facts, so {expected} was expected; {REMEDY}"
                )
        return found


def read_scan(directory: Path | str) -> Scan:
    """Reads `scan.json`; in a notebook the result shows itself.

    Args:
      directory: where `kis scan` wrote its files.

    Returns:
      The scan; numbers that were not finite (null in the file) are NaN.

    Raises:
      ValueError: when the file is missing, is no JSON, has another format, or lacks an entry.

    Examples:
      >>> read_scan("no-such-folder")
      Traceback (most recent call last):
      ...
      ValueError: no-such-folder/scan.json: no such file; name the directory of a finished ...
    """
    directory = Path(directory)
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
        second_moment_convergence=tuple(
            (int(look["tokens"]), np.array([number(value) for value in look["error"]]))
            for look in record.get("second_moment_convergence", ())
        ),
        facts=facts,
        layers=layers,
        record=record,
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
    return Layer(
        index=int(record["layer"]),
        pairs=tuple(_pair(pair, facts) for pair in record["pairs"]),
        convergence=convergence_of(record["convergence"]),
        bulk_std_times_sqrt_rank=number(record.get("bulk_std_times_sqrt_rank")),
        tail_fraction=number(record.get("tail_fraction")),
        shrinkage=record.get("shrinkage"),
        controls={name: _control(control) for name, control in record.get("controls", {}).items()},
        **numbers,
    )


def convergence_of(steps: Sequence[Mapping[str, Any]]) -> Convergence:
    """The curve of one layer from its lines of JSON."""
    columns = {
        name: np.array([number(step[name]) for step in steps], dtype=np.float64)
        for name in ("num_facts", "kurtosis", "low", "high")
    }
    for name in ("bootstrap_low", "bootstrap_high"):
        columns[name] = np.array([number(step.get(name)) for step in steps], dtype=np.float64)
    return Convergence(**columns)


def _control(record: Mapping[str, Any]) -> Control:
    numbers = {field.name: number(record[field.name]) for field in fields(Control)[1:]}
    return Control(int(record["num_keys"]), **numbers)


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
