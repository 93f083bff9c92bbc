"""The puzzles that are shipped."""

import pytest

from kis_jax import factlm
from kis_jax.data.facts import read_facts
from kis_jax.data.puzzles import VARIANTS, read_puzzles
from kis_jax.factlm.puzzles import FIRST_FACT, puzzle_text, puzzles
from kis_jax.factlm.world import build_world


@pytest.fixture(scope="module")
def shipped():
    return {split: read_puzzles(f"factlm-{split}") for split in factlm.PUZZLE_SPLITS}


def test_files_are_what_the_generator_makes():
    made = puzzles(build_world())
    for split in factlm.PUZZLE_SPLITS:
        assert factlm.puzzles_path(split).read_text() == puzzle_text(made[split])
    sizes = [factlm.puzzles_path(split).stat().st_size for split in factlm.PUZZLE_SPLITS]
    assert sum(sizes) < 300_000


def test_groups_are_whole_and_apart(shipped):
    groups = {split: {p.group for p in found} for split, found in shipped.items()}
    assert not groups["train"] & (groups["validation"] | groups["test"])
    assert not groups["validation"] & groups["test"]
    for found in shipped.values():
        assert [p.variant for p in found] == list(VARIANTS) * (len(found) // 3)


def test_answers_are_true_and_no_question_gives_its_own_away(shipped):
    facts = read_facts("factlm")
    for puzzle in shipped["test"]:
        right = puzzle.choices[puzzle.answer]
        asked = [f for f in facts[FIRST_FACT:] if f.subject in puzzle.question]
        assert any(f.target_true == right for f in asked)
        assert right not in puzzle.question
        named = [choice for choice in puzzle.choices if choice in puzzle.question]
        assert named, "the false lead is among the choices"
        assert len(set(puzzle.choices)) == 4


def test_what_is_held_out_are_combinations(shipped):
    """Every fact of the other splits is asked for in training, and no text is."""

    def pairs(split):
        facts = read_facts("factlm")[FIRST_FACT:]
        return {
            (fact.subject, puzzle.choices[puzzle.answer])
            for puzzle in shipped[split]
            for fact in facts
            if fact.subject in puzzle.question and fact.target_true in puzzle.choices
            and puzzle.choices[puzzle.answer] == fact.target_true
        }  # fmt: skip

    learned = pairs("train")
    assert pairs("validation") <= learned and pairs("test") <= learned
    texts = {puzzle.question for puzzle in shipped["train"]}
    others = [p.question for split in ("validation", "test") for p in shipped[split]]
    assert not texts & set(others)
