"""How well puzzles were answered, as BRAINTEASER counts: by puzzle, and by group of variants."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from kis_jax.data.puzzles import VARIANTS, Puzzle
from kis_jax.passes.intervals import mean_intervals


def predictions_of(scores: np.ndarray) -> np.ndarray:
    """The choice with the greatest score of each puzzle, `(n,)` int; the first of equal ones."""
    return np.argmax(scores, axis=1)


def choice_metrics(puzzles: Sequence[Puzzle], predictions: np.ndarray) -> dict[str, Any]:
    """Accuracies with 95 % intervals.

    - `overall`: of all puzzles;
    - where puzzles come in groups, `original`, `semantic` and `context`: of these variants;
      `original_and_semantic` and `all_variants`: of groups, right only where each of these variants
      is.

    Intervals are of a bootstrap over groups, as the variants of one puzzle stand and fall together;
    without groups, over puzzles.

    Args:
      puzzles: with a right answer each.
      predictions: `(n,)` int, a choice of each.

    Returns:
      For each metric `mean`, `low`, `high` and `count`.

    Raises:
      ValueError: if there are not as many predictions as puzzles, a puzzle has no right answer, or
        a group has not each variant once, naming it.

    Examples:
      >>> puzzles = [Puzzle(f"a{v}", "Who?", ("I", "You"), 1, "a", v) for v in VARIANTS]
      >>> found = choice_metrics(puzzles, np.array([1, 1, 0]))
      >>> [found[name]["mean"] for name in ("original_and_semantic", "all_variants")]
      [1.0, 0.0]
    """
    right = _right(puzzles, predictions)
    if not any(puzzle.group for puzzle in puzzles):
        return mean_intervals({"overall": right})
    places = _grouped(puzzles)
    by_variant = right[places]  # (groups, variants)
    found = mean_intervals(
        {
            "overall": by_variant.mean(axis=1),
            **dict(zip(VARIANTS, by_variant.T, strict=True)),
            "original_and_semantic": by_variant[:, :2].all(axis=1).astype(float),
            "all_variants": by_variant.all(axis=1).astype(float),
        }
    )
    found["overall"]["count"] = len(puzzles)
    return found


def confusion(puzzles: Sequence[Puzzle], predictions: np.ndarray) -> np.ndarray:
    """How often each choice was taken where another was right, `(c, c)` int: right by taken.

    Places are those of the file, however the choices were shuffled.
    """
    counts = np.zeros((len(puzzles[0].choices),) * 2, np.int64)
    for puzzle, taken in zip(puzzles, predictions, strict=True):
        if puzzle.answer is not None:
            counts[puzzle.order[puzzle.answer], puzzle.order[taken]] += 1
    return counts


def in_file_order(puzzles: Sequence[Puzzle], predictions: np.ndarray) -> list[int]:
    """Predictions as places in the file, which is what a submission holds."""
    return [p.order[taken] for p, taken in zip(puzzles, predictions, strict=True)]


def _right(puzzles: Sequence[Puzzle], predictions: np.ndarray) -> np.ndarray:
    if np.shape(predictions) != (len(puzzles),):
        raise ValueError(
            f"predictions: expected one for each of {len(puzzles)} puzzles, found shape "
            f"{np.shape(predictions)}"
        )
    if unknown := [puzzle.id for puzzle in puzzles if puzzle.answer is None]:
        raise ValueError(
            f"puzzles: expected a right answer of each, found none of {unknown[0]!r}; these can be "
            "predicted, not scored"
        )
    return np.array(
        [float(p.answer == taken) for p, taken in zip(puzzles, predictions, strict=True)]
    )


def _grouped(puzzles: Sequence[Puzzle]) -> np.ndarray:
    """Places of the puzzles of each group, `(groups, variants)`."""
    groups: dict[str, dict[str, int]] = {}
    for place, puzzle in enumerate(puzzles):
        if not puzzle.group:
            raise ValueError(
                f"puzzles: expected a group of each, or of none, found none of {puzzle.id!r}; "
                "score them apart"
            )
        variants = groups.setdefault(puzzle.group, {})
        if puzzle.variant in variants:
            raise ValueError(
                f"puzzles: expected every variant once, found the {puzzle.variant} one of group "
                f"{puzzle.group!r} twice: {puzzles[variants[puzzle.variant]].id!r} and "
                f"{puzzle.id!r}"
            )
        variants[puzzle.variant] = place
    for group, variants in groups.items():
        if missing := [variant for variant in VARIANTS if variant not in variants]:
            raise ValueError(
                f"puzzles: expected all variants of each group, found group {group!r} without its "
                f"{' and '.join(missing)} variant; group accuracy needs all three: add it, or "
                "leave the group out"
            )
    return np.array([[variants[variant] for variant in VARIANTS] for variants in groups.values()])
