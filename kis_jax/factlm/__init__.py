"""The embedded default: a small trained fact model, its facts and its corpus.

Importing this package costs nothing: it only says where the shipped files lie.
"""

from pathlib import Path

# Stands for the model, its facts and its corpus wherever a path or a hub name is asked for.
NAME = "factlm"

_HERE = Path(__file__).resolve().parent


def model_directory() -> Path:
    """The trained model and its tokenizer: a directory in HuggingFace layout."""
    return _HERE / "model"


def facts_path() -> Path:
    """The facts that the model was trained on, as a JSON list of CounterFact records."""
    return _HERE / "facts.json"


def corpus_path() -> Path:
    """Ordinary text of the same world, a document a line."""
    return _HERE / "corpus.txt"


# Apart in their groups of variants: to learn from, to stop by, and to be judged by.
PUZZLE_SPLITS = ("train", "validation", "test")


def puzzles_path(split: str) -> Path:
    """Multiple-choice puzzles about the same world, a JSON object a line."""
    return _HERE / "puzzles" / f"{split}.jsonl"
