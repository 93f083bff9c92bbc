"""Finished scans of three sizes of one model, written by hand: no model is run."""

import json
from pathlib import Path

import numpy as np
from scipy.stats import kurtosis, median_abs_deviation

NUM_FACTS = 20
RELATED = [(1, 2), (5, 9), (5, 10)]  # pairs of facts that collide in every model


def superposition(width: int, seed: int) -> np.ndarray:
    """Unrelated directions of this rank but for a few pairs, the same at any width."""
    rng = np.random.default_rng(seed)
    p = rng.normal(size=(NUM_FACTS, NUM_FACTS)) / np.sqrt(width)
    for i, j in RELATED:
        p[i, j] = p[j, i] = 0.9
    p[3, 4] = p[4, 3] = 1.0  # one subject asked twice
    np.fill_diagonal(p, 1.0)
    return p


def numbers(p: np.ndarray, width: int) -> dict:
    entries = p[~np.eye(len(p), dtype=bool)]
    spread = median_abs_deviation(entries, scale="normal")
    return {
        "mean": entries.mean(),
        "std": entries.std(),
        "skewness": 0.0,
        "kurtosis": float(kurtosis(entries)),
        "max": entries.max(),
        "bulk_std_times_sqrt_rank": spread * np.sqrt(width),
        "tail_fraction": float((np.abs(entries - np.median(entries)) > 6 * spread).mean()),
    }


def facts() -> list[dict]:
    return [
        {
            "case_id": place,
            "subject": "<b>Subject</b> 3" if place in (3, 4) else f"Subject {place}",
            "prompt": "The mother tongue of {} is",
            "target": f"Target {place}",
            "relation": "P103",
            "token": " x",
            "token_index": 1,
            "duplicate_of": 3 if place == 4 else None,
        }
        for place in range(NUM_FACTS)
    ]


def write_scan(directory: Path, width: int, *, num_layers: int = 3) -> Path:
    """Writes scan.json and the matrices of a model with keys of this width."""
    directory.mkdir(parents=True)
    layers, kept = [], [place for place in range(NUM_FACTS) if place != 4]
    for layer in range(num_layers):
        p = superposition(width, 100 * width + layer)
        cosine = np.clip((p + p.T) / 2, -1, 1)
        np.savez(
            directory / f"layer_{layer:03d}.npz",
            superposition=p,
            whitening_cosine=cosine,
            activation_cosine=cosine,
        )
        controls = {
            "random_directions": p * 0 + np.random.default_rng(layer).normal(size=p.shape),
            "other_tokens": superposition(width, 7 + layer),
            "distinct_subjects": p[np.ix_(kept, kept)],
        }
        layers.append(
            {
                "layer": layer,
                "num_facts": NUM_FACTS,
                **numbers(p, width),
                "condition": 10.0,
                "kurtosis_without_duplicates": 1.0,
                "shrinkage": None,
                "controls": {
                    name: {"num_keys": len(q), **numbers(q, width)} for name, q in controls.items()
                },
                "pairs": [],
                "convergence": [
                    {"num_facts": size, "kurtosis": 1.0, "low": 0.0, "high": 2.0,
                     "bootstrap_low": 0.0, "bootstrap_high": 3.0}
                    for size in (8, 16, 20)
                ],
            }
        )  # fmt: skip
    record = {
        "format": 1,
        "version": "0.1.0",
        "model": f"org/model-{width}",
        "family": "gpt2",
        "architecture": {
            "num_layers": num_layers,
            "num_parameters": 12 * width**2,
            "width": width // 4,
            "key_dimension": width,
        },
        "fingerprints": {"corpus": "c", "facts": "f"},
        "settings": {"position": "subject_last", "ridge": 0.0, "num_documents": 10},
        "token_count": 1000,
        "document_count": 10,
        "second_moment_convergence": [],
        "facts": facts(),
        "layers": layers,
    }
    (directory / "scan.json").write_text(json.dumps(record), encoding="utf-8")
    return directory
