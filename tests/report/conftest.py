"""A small finished scan with everything that a real one may hold: duplicates, odd text, nulls."""

import json
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from scipy.stats import kurtosis, skew

from kis_jax.scan.page import write_report

NUM_FACTS, WIDTH, NUM_LAYERS = 24, 40, 3
SUBJECTS = {
    0: "<script>alert(1)</script>",
    1: 'Quote "O\'Brien" & <b>co</b>',
    2: "\U0001f600 emoji \u4e2d\u6751",
    3: "\u0645\u062d\u0645\u0648\u062f",
    4: "\u202ereversed",
    5: "W" * 300,
    6: "lone \ud800 surrogate",
}
DUPLICATES = {10: 0, 20: 12}


def facts() -> list[dict]:
    subjects = [SUBJECTS.get(index, f"Subject {index}") for index in range(NUM_FACTS)]
    for later, earlier in DUPLICATES.items():
        subjects[later] = subjects[earlier]
    return [
        {
            "case_id": 100 + index,
            "subject": subject,
            "prompt": "The mother tongue of {} is",
            "target": f"Target{index}",
            "relation": "P103",
            "token": "</code>" if index == 0 else " tail",
            "token_index": 5,
            "duplicate_of": DUPLICATES.get(index),
        }
        for index, subject in enumerate(subjects)
    ]


def matrices(rng: np.random.Generator) -> dict[str, np.ndarray]:
    keys = rng.normal(size=(NUM_FACTS, WIDTH))
    keys[12 + 1] = 0.7 * keys[12] + 0.5 * keys[13]
    for later, earlier in DUPLICATES.items():
        keys[later] = keys[earlier]
    mixed = (keys + 1.0) * np.exp(rng.normal(size=WIDTH))
    gram, raw = keys @ keys.T, mixed @ mixed.T
    return {
        "superposition": gram / np.diag(gram)[:, None],
        "gram": raw,
        "whitening_cosine": gram / np.sqrt(np.outer(np.diag(gram), np.diag(gram))),
        "activation_cosine": raw / np.sqrt(np.outer(np.diag(raw), np.diag(raw))),
        "keys": mixed,
    }


def statistics(layer: int, superposition: np.ndarray) -> dict:
    rows, columns = np.triu_indices(NUM_FACTS, 1)
    order = np.argsort(-superposition[rows, columns])[:8]
    entries = superposition[~np.eye(NUM_FACTS, dtype=bool)]
    return {
        "layer": layer,
        "num_facts": NUM_FACTS,
        "mean": entries.mean(),
        "std": entries.std(),
        "skewness": float(skew(entries)),
        "kurtosis": float(kurtosis(entries)),
        "max": entries.max(),
        "condition": 12345.6,
        "kurtosis_without_duplicates": float(kurtosis(entries)) / 2,
        "bulk_std_times_sqrt_rank": 1.02 + layer,
        "tail_fraction": 0.0123,
        "shrinkage": 0.25 if layer == 2 else None,
        "controls": {
            name: {
                "num_keys": NUM_FACTS - place,
                "mean": 0.0,
                "std": 0.1,
                "skewness": 0.0,
                "kurtosis": 0.5 * place + layer,
                "max": 0.4321,
                "bulk_std_times_sqrt_rank": 0.987,
                "tail_fraction": 0.0,
            }
            for place, name in enumerate(("random_directions", "other_tokens", "distinct_subjects"))
        },
        "pairs": [
            {
                "edit": int(rows[place]),
                "touched": int(columns[place]),
                "superposition": superposition[rows[place], columns[place]],
                "reverse": superposition[columns[place], rows[place]],
            }
            for place in order
        ],
        "convergence": [
            {
                "num_facts": size,
                "kurtosis": 3.0,
                "low": 1.0,
                "high": 5.0 + layer,
                "bootstrap_low": 0.5,
                "bootstrap_high": 7.0,
            }
            for size in (8, 16, 24)
        ],
    }


def write_scan(directory: Path) -> Path:
    """Write the files of a scan into a new directory; every call writes the same."""
    directory.mkdir()
    rng = np.random.default_rng(0)
    layers = []
    for layer in range(NUM_LAYERS):
        arrays = matrices(rng)
        layers.append(statistics(layer, arrays["superposition"]))
        if layer == 1:
            arrays["superposition"][3, 4] = np.nan
            layers[1] |= {"kurtosis": None, "mean": None, "condition": None}
            layers[1]["convergence"][0]["low"] = None
            layers[1]["pairs"][1]["reverse"] = None
        np.savez(directory / f"layer_{layer:03d}.npz", **arrays)
    record = {
        "format": 1,
        "version": "0.1.0",
        "model": "org/<img src=x>",
        "family": "gpt2",
        "architecture": {"num_layers": 3, "width": 10, "key_dimension": WIDTH},
        "fingerprints": {"model": "0123456789abcdef0123"},
        "settings": {
            "model": "org/<img src=x>",
            "corpus": "it's, a file.txt",
            "num_facts": NUM_FACTS,
            "layers": [0, 1, 2],
            "ridge": 0.0,
            "token_budget": 4096,
        },
        "token_count": 123456,
        "document_count": None,
        "second_moment_convergence": [
            {"tokens": tokens, "error": [0.5 / tokens**0.5, None, 0.4 / tokens**0.5]}
            for tokens in (1000, 2000, 4000)
        ],
        "facts": facts(),
        "layers": layers,
    }
    (directory / "scan.json").write_text(json.dumps(record), encoding="utf-8")
    return directory


@pytest.fixture
def scan_directory(tmp_path: Path) -> Path:
    return write_scan(tmp_path / "scan")


@pytest.fixture(scope="session")
def two_reports(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two directories with one scan and its report, to look at and not to change."""
    first, second = (write_scan(tmp_path_factory.mktemp("report") / name) for name in "ab")
    for directory in (first, second):
        write_report(directory)
    return first, second


@pytest.fixture
def settings_stay() -> Iterator[None]:
    """Whatever the test draws, matplotlib's settings are afterwards what they were before."""

    def settings() -> dict[str, object]:
        # To ask for the backend is to choose one.
        return {
            name: matplotlib.rcParams[name] for name in matplotlib.rcParams if name != "backend"
        }

    before = settings()
    yield
    assert settings() == before
