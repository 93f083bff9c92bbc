"""A made-up `plan.json`: two layers, two methods, a collision, and text that would be markup."""

import json
from pathlib import Path
from typing import Any

SUBJECTS = ("<script>alert(1)</script>", "Subject 1", "Subject 2")


def point(num_edits: int, effect: float) -> dict[str, Any]:
    return {
        "num_edits": num_edits,
        "displacement": 0.1 * num_edits,
        "kept": 0.9,
        "effect": effect,
        "carried": effect / 2,
        "score": effect / 3,
    }


def choice(method: str, effect: float) -> dict[str, Any]:
    return {
        "method": method,
        **{key: value for key, value in point(3, effect).items() if key != "num_edits"},
        "rehearsal": None,
        "edits_within_bound": 2,
        "most_displaced": [{"text": "some text", "displacement": 0.5}],
        "curve": [point(count, effect * 0.9**count) for count in (1, 2, 3)],
    }


def layer(index: int) -> dict[str, Any]:
    pair = {"edit": 0, "touched": 2, "superposition": 0.91, "reverse": -0.2, "near_duplicate": True}
    return {
        "layer": index,
        "num_collisions": 1,
        "num_near_duplicates": 1,
        "reached": 0.8,
        "pairs": [pair],
        "clusters": [[0, 1, 2]],
        "methods": [choice("sequential", 0.5 + 0.2 * index), choice("batch", 0.4)][: 1 + index],
    }


def record() -> dict[str, Any]:
    return {
        "format": 1,
        "version": "0.1.0",
        "model": "org/<img src=x>",
        "family": "gpt2",
        "fingerprints": {"model": "a" * 64},
        "settings": {"max_superposition": 0.5, "max_displacement": 0.25, "facts": "facts.json"},
        "edit_settings": {"layer": 0},
        "token_count": 1000,
        "num_others": 10,
        "facts": [
            {"case_id": place, "subject": subject, "prompt": "{} is in", "target": "Rome"}
            for place, subject in enumerate(SUBJECTS)
        ],
        "contradictions": [],
        "repetitions": [],
        "layers": [layer(0), layer(1)],
        "recommendation": {"layer": 1, "method": "sequential", "order": [0, 2, 1]},
    }


def write(directory: Path) -> Path:
    directory.mkdir()
    text = json.dumps(record(), allow_nan=False)
    (directory / "plan.json").write_text(text, encoding="utf-8")
    return directory
