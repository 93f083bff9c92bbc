"""The task's metrics against numbers counted by hand."""

import numpy as np
import pytest

from kis_jax.data.puzzles import VARIANTS, Puzzle, shuffled
from kis_jax.passes.choices.metrics import (
    choice_metrics,
    confusion,
    in_file_order,
    predictions_of,
)


def group(name, answers):
    return [
        Puzzle(f"{name}-{v}", "?", tuple("abcd"), answer, name, v, (0, 1, 2, 3))
        for v, answer in zip(VARIANTS, answers, strict=True)
    ]


# By hand: group x is right in all three, y in original and semantic, z in semantic alone, w in
# original and context. Original 3 of 4, semantic 3 of 4, context 2 of 4; 8 of 12 in all; original
# and semantic 2 of 4 groups; all three 1 of 4.
PUZZLES = [
    *group("x", (0, 1, 2)),
    *group("y", (3, 3, 3)),
    *group("z", (1, 1, 1)),
    *group("w", (2, 0, 2)),
]
TAKEN = np.array([0, 1, 2, 3, 3, 0, 0, 1, 2, 2, 1, 2])
BY_HAND = {
    "overall": 8 / 12,
    "original": 3 / 4,
    "semantic": 3 / 4,
    "context": 2 / 4,
    "original_and_semantic": 2 / 4,
    "all_variants": 1 / 4,
}


def test_metrics_are_those_counted_by_hand():
    found = choice_metrics(PUZZLES, TAKEN)
    assert {name: entry["mean"] for name, entry in found.items()} == pytest.approx(BY_HAND)
    assert {name: entry["count"] for name, entry in found.items()} == {
        "overall": 12, "original": 4, "semantic": 4, "context": 4,
        "original_and_semantic": 4, "all_variants": 4,
    }  # fmt: skip
    for entry in found.values():
        assert 0 <= entry["low"] <= entry["mean"] <= entry["high"] <= 1


def test_the_order_of_puzzles_does_not_matter(rng):
    order = rng.permutation(len(PUZZLES))
    found = choice_metrics([PUZZLES[i] for i in order], TAKEN[order])
    assert {name: entry["mean"] for name, entry in found.items()} == pytest.approx(BY_HAND)


def test_intervals_hold_whole_groups_together():
    """Variants that all stand or fall together tell no more than one of them."""
    puzzles = [p for i in range(100) for p in group(str(i), (0, 0, 0))]
    taken = np.repeat(np.arange(100) % 2, 3)
    found = choice_metrics(puzzles, taken)
    spread = 1.96 * np.sqrt(0.25 / 100)
    assert found["overall"]["low"] == pytest.approx(0.5 - spread, abs=0.03)
    assert found["overall"]["low"] == pytest.approx(found["original"]["low"], abs=0.03)


def test_without_groups_there_is_one_accuracy():
    puzzles = [Puzzle(str(i), "?", ("a", "b"), 1, order=(0, 1)) for i in range(4)]
    found = choice_metrics(puzzles, np.array([1, 1, 1, 0]))
    assert list(found) == ["overall"] and found["overall"]["mean"] == 0.75


def test_a_group_that_is_not_whole_is_named():
    with pytest.raises(ValueError, match="group 'y' without its semantic variant"):
        choice_metrics([p for p in PUZZLES if p.id != "y-semantic"], np.delete(TAKEN, 4))
    with pytest.raises(ValueError, match="group 'w' without its semantic and context variant"):
        choice_metrics(PUZZLES[:10], TAKEN[:10])
    with pytest.raises(ValueError, match="the context one of group 'w' twice"):
        choice_metrics([*PUZZLES, PUZZLES[-1]], np.append(TAKEN, 0))
    alone = Puzzle("alone", "?", tuple("abcd"), 0, order=(0, 1, 2, 3))
    with pytest.raises(ValueError, match="a group of each, or of none, found none of 'alone'"):
        choice_metrics([*PUZZLES, alone], np.append(TAKEN, 0))


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match=r"one for each of 12 puzzles, found shape \(11,\)"):
        choice_metrics(PUZZLES, TAKEN[1:])
    kept = [Puzzle("a", "?", ("a", "b"), None)]
    with pytest.raises(ValueError, match="found none of 'a'; these can be predicted"):
        choice_metrics(kept, np.array([0]))


def test_confusion_and_submission_are_in_the_files_order():
    puzzles = shuffled(PUZZLES, seed=5)
    taken = np.array([p.order.index(place) for p, place in zip(puzzles, TAKEN, strict=True)])
    assert in_file_order(puzzles, taken) == TAKEN.tolist()
    expected = np.zeros((4, 4), int)
    for puzzle, place in zip(PUZZLES, TAKEN, strict=True):
        expected[puzzle.answer, place] += 1
    np.testing.assert_array_equal(confusion(puzzles, taken), expected)
    assert np.trace(confusion(puzzles, taken)) == 8
    found = choice_metrics(puzzles, taken)
    assert found["overall"]["mean"] == pytest.approx(8 / 12)


def test_the_greatest_score_is_taken():
    assert predictions_of(np.array([[0.0, 2.0, 1.0], [3.0, 3.0, 0.0]])).tolist() == [1, 0]
