"""A made-up `lifelong.json` with everything that a real one may hold: nulls, odd text, collapse."""

import json
from pathlib import Path
from typing import Any

STEPS = (1, 10, 100, 500)
METRICS = ("efficacy", "retention", "paraphrase", "neighborhood", "score", "paraphrase_magnitude")


def score(mean: float | None, count: int) -> dict:
    if mean is None:
        return {"mean": None, "low": None, "high": None, "count": 0}
    return {"mean": mean, "low": max(0, mean - 0.1), "high": min(1, mean + 0.1), "count": count}


def moved(measured: float, *, foreseen: bool) -> dict:
    return {
        "count": 20,
        "measured": measured,
        "largest": 3 * measured,
        "predicted": measured * (1 + 1e-7) if foreseen else None,
        "error": 1e-7 if foreseen and measured > 1e-6 else None,
    }


def checkpoint(edits: int, *, decay: float, exact: bool, foreseen: bool) -> dict:
    share = max(0.3, 1 - decay * edits / 500)
    metrics = {name: score(share, edits) for name in METRICS}
    if edits == 1:
        metrics["retention"] = score(None, 0)
    return {
        "edits": edits,
        "made": edits,
        "lost": list(range(0, edits, 3)) if decay > 0.5 else [],
        "metrics": metrics,
        "unedited": {"efficacy": 0.02, "neighborhood": 0.95},
        "perplexity": 5.0 * (1 + decay * edits / 50) if edits < 500 or decay < 0.5 else None,
        "fluency": None,
        "probes": {"quiz <b>score</b>": share / 2},
        "update": {"norm": 0.1 * edits, "relative": 0.01 * edits},
        "interference": {
            "edited": moved(1e-9 if exact else 0.001 * edits, foreseen=foreseen),
            "other_facts": moved(0.0015 * edits, foreseen=foreseen),
            "text": moved(0.0005 * edits, foreseen=foreseen),
        },
        "signs": [],
    }


def course(method: str, decay: float, *, collapse: int | None, foreseen: bool = True) -> dict:
    signs = [
        {"metric": "efficacy", "value": 0.41, "limit": 0.75},
        {"metric": "perplexity", "value": None, "limit": 10.0},
    ]
    return {
        "method": method,
        "targets": "fixed" if foreseen else None,
        "left_out": [{"fact": 3, "reason": "its key repeats others"}],
        "collapse": None if collapse is None else {"edits": collapse, "signs": signs},
        "checkpoints": [
            checkpoint(edits, decay=decay, exact=method == "constrained", foreseen=foreseen)
            for edits in STEPS
        ],
    }


def record() -> dict[str, Any]:
    return {
        "format": 1,
        "version": "0.1.0",
        "model": "org/<img src=x>",
        "family": "gpt2",
        "layer": 3,
        "fingerprints": {"model": "a" * 64, "facts": "b" * 64},
        "settings": {
            "model": "org/<img src=x>",
            "facts": "it's, a file.json",
            "corpus": "factlm",
            "layer": 3,
            "steps": list(STEPS),
            "method": ["sequential", "constrained", "finetune"],
            "targets": "fixed",
            "held_out": None,
        },
        "edit_settings": {"origin": "made up", "batch_weight": 100.0},
        "collapse_definition": "the first checkpoint of all",
        "token_count": 40_000,
        "facts": [
            {
                "case_id": i,
                "subject": f"Subject {i}",
                "prompt": "{} is",
                "target": "x",
                "failure": "not finite" if i == 7 else None,
            }
            for i in range(STEPS[-1])
        ],
        "unedited": {"perplexity": 5.0, "fluency": None, "probes": {"quiz <b>score</b>": 0.6}},
        "methods": [
            course("sequential", 0.9, collapse=100),
            course("constrained", 0.1, collapse=None),
            course("finetune", 0.7, collapse=500, foreseen=False),
        ],
    }


def write(directory: Path) -> Path:
    directory.mkdir()
    text = json.dumps(record(), allow_nan=False)
    (directory / "lifelong.json").write_text(text, encoding="utf-8")
    return directory
