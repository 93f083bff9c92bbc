"""Right answers that stand in a file of their own, beside their puzzles."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kis_jax.data.records import iter_records
from kis_jax.data.safe_pickle import is_npy, read_object_array


def read_labels(path: str | Path, puzzles: Sequence[tuple[str, int]]) -> list[int]:
    """The places of the right choices, in the order of the puzzles.

    Args:
      path: a `.npy` array or a JSON list: of places, `(n,)`, in the order of the puzzles; or of
        pairs `(n, 2)` of a puzzle's id, or its number from 0, and the place of its right choice.
      puzzles: of each its id, and how many choices it has.

    Raises:
      ValueError: naming the file, if it has not one label for each puzzle, or one that is no place
        of a choice.

    Examples:
      >>> import tempfile
      >>> path = Path(tempfile.mkdtemp(), "labels.json")
      >>> _ = path.write_text('[["SP-1", 2], ["SP-0", 0]]')
      >>> read_labels(path, [("SP-0", 4), ("SP-1", 4)])
      [0, 2]
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"labels: expected a .npy or JSON file, found no file {path}")
    rows = _rows(path)
    if len(rows) != len(puzzles):
        raise ValueError(
            f"{path}: expected a label of each of {len(puzzles)} puzzles, found {len(rows)}"
        )
    if rows and all(isinstance(row, list) and len(row) == 2 for row in rows):
        rows = _in_order(path, rows, [name for name, _ in puzzles])
    labels = []
    for (name, count), row in zip(puzzles, rows, strict=True):
        place = _whole(row)
        if place is None or not 0 <= place < count:
            raise ValueError(
                f"{path}: expected the place of the right choice of {name!r}, 0 to {count - 1}, "
                f"found {row!r:.60}"
            )
        labels.append(place)
    return labels


def _rows(path: Path) -> list[Any]:
    if not is_npy(path):
        return [row for _, row in iter_records(path)]
    try:
        found = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError):  # of objects, or damaged, which is told there
        try:
            return read_object_array(path, axes=2)
        except ValueError:
            return read_object_array(path)
    if found.ndim == 0:
        raise ValueError(f"{path}: expected an array of labels, found a single {found.dtype}")
    return found.tolist()


def _in_order(path: Path, rows: Sequence[Sequence[Any]], names: Sequence[str]) -> list[Any]:
    """The labels of pairs, in the order of the puzzles."""
    first = [str(row[0]) for row in rows]
    numbers = [_whole(row[0]) for row in rows]
    if set(first) == set(names):
        told = dict(zip(first, (row[1] for row in rows), strict=True))
        return [told[name] for name in names]
    if sorted(number for number in numbers if number is not None) == list(range(len(rows))):
        told = dict(zip(numbers, (row[1] for row in rows), strict=True))
        return [told[place] for place in range(len(rows))]
    strange = next((name for name in first if name not in names), first[0])
    raise ValueError(
        f"{path}: expected pairs of a puzzle's id, or its number from 0, each once, and a label, "
        f"found {strange!r} before the first label that has no puzzle of its own"
    )


def _whole(value: Any) -> int | None:
    """A whole number, or its text, as one; None for anything else."""
    if isinstance(value, str) and value.strip().isdigit():
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None
