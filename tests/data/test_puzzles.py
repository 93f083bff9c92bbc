"""Puzzles from each layout, and whatever is wrong with them named."""

import json

import numpy as np
import pytest

from kis_jax.data.puzzles import (
    VARIANTS,
    Puzzle,
    held_out,
    read_puzzles,
    read_sources,
    shuffled,
    with_random_answers,
    without,
)

TEASER = {
    "id": "SP-3",
    "question": "A man shaves every day,  yet keeps his beard long.",
    "answer": "He is a barber.",
    "distractor1": "He wants to look well.",
    "distractor2": "He has two razors.",
    "distractor(unsure)": "None of above.",
    "label": 2,
    "choice_list": [
        "He wants to look well.", "He has two razors.", "He is a barber.", "None of above.",
    ],
    "choice_order": [1, 2, 0, 3],
}  # fmt: skip
TEASERS = [TEASER, TEASER | {"id": "SP-3_SR"}, TEASER | {"id": "SP-3_CR"}]
RIDDLE = {
    "id": "r1",
    "answerKey": "B",
    "question": {
        "stem": "What has keys and opens nothing?",
        "choices": [{"label": "A", "text": "door"}, {"label": "B", "text": "piano"}],
    },
}
OWN = {"id": "a", "question": "Who?", "choices": ["I", "You", "They"], "answer": "You"}


@pytest.fixture
def file(tmp_path):
    def write(name, records):
        path = tmp_path / name
        if path.suffix == ".npy":
            array = np.empty(len(records), object)
            array[:] = records
            np.save(path, array, allow_pickle=True)
        elif path.suffix == ".json":
            path.write_text(json.dumps(records))
        else:
            path.write_text("\n".join(json.dumps(record) for record in records) + "\n\n")
        return path

    return write


@pytest.mark.parametrize("name", ["SP.npy", "SP.json", "SP.jsonl"])
def test_brainteaser(file, name):
    puzzles = read_puzzles(file(name, TEASERS))
    assert [puzzle.variant for puzzle in puzzles] == list(VARIANTS)
    assert {puzzle.group for puzzle in puzzles} == {"SP-3"}
    first = puzzles[0]
    assert first.question == "A man shaves every day, yet keeps his beard long."
    assert first.choices[first.answer] == "He is a barber." and first.order == (0, 1, 2, 3)


def test_brainteasers_test_set_has_neither_ids_nor_labels(file):
    kept = [{name: TEASER[name] for name in ("question", "choice_list")} for _ in range(2)]
    path = file("SP.npy", kept)
    puzzles = read_puzzles(path, answers=False)
    assert [(p.id, p.answer, p.group) for p in puzzles] == [
        ("record 1", None, ""), ("record 2", None, ""),
    ]  # fmt: skip
    with pytest.raises(ValueError, match="expected a right answer of every puzzle, found none of"):
        read_puzzles(path)


def test_riddles_and_commonsense_questions(file):
    columns = {
        "id": "c1",
        "question": "Where do keys lie?",
        "choices": {"label": ["A", "B"], "text": ["in the sea", "on the table"]},
        "answerKey": "B",
    }
    riddle, question = read_puzzles(file("r.jsonl", [RIDDLE, columns]))
    assert riddle.choices[riddle.answer] == "piano" and riddle.group == ""
    assert question.choices[question.answer] == "on the table"


def test_our_own(file):
    puzzles = read_puzzles(
        file("a.jsonl", [OWN, {**OWN, "id": 7, "answer": 0, "group": "g", "variant": "context"}])
    )
    assert [puzzle.answer for puzzle in puzzles] == [1, 0]
    assert puzzles[1] == Puzzle("7", "Who?", ("I", "You", "They"), 0, "g", "context", (0, 1, 2))


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([OWN, OWN], "expected every id once, found 'a' 2 times"),
        ([OWN, OWN, RIDDLE, RIDDLE], "found 'a' 2 times, and 1 more ids"),
        (
            [OWN, {**OWN, "id": "b", "choices": ["You", "I"]}],
            "3 choices .* 'a' has, found 2 of 'b'",
        ),
        ([{**OWN, "answer": "Nobody"}], r"line 1 \(a\): .* found 'Nobody': there is no one right"),
        ([{**OWN, "answer": 3}], r"line 1 \(a\), answer: .* 0 to 2, found 3: there is no right"),
        ([{**OWN, "answer": True}], "found True"),
        ([{**OWN, "choices": ["You", "You", "I"]}], "there is no one right answer"),
        ([OWN, {"id": "b"}], "line 2: expected `choice_list` .* found id"),
        ([OWN, 3], "line 2: expected an object, found int"),
        ([{**OWN, "id": ""}], "line 1: expected an `id`"),
        ([{**OWN, "question": " "}], r"line 1 \(a\), question: expected a text"),
        ([{**OWN, "choices": ["You"]}], "two choices or more"),
        ([{**OWN, "choices": ["You", 3]}], "choice 2: expected a text, found 3"),
        ([{**OWN, "group": "g"}], "expected a `group` and a `variant`"),
        ([{**OWN, "group": "g", "variant": "odd"}], "found 'g' and 'odd'"),
        ([{**TEASER, "label": 4}], r"line 1 \(SP-3\), label: .* found 4: there is no right answer"),
        ([{**TEASER, "label": 0}], "expected `answer` to be the choice that `label` names"),
        ([{**RIDDLE, "answerKey": "C"}], r"line 1 \(r1\): .* one of A, B, found 'C'"),
        ([{**RIDDLE, "question": {"stem": "x", "choices": "ab"}}], "of `label` and `text` each"),
        ([{**OWN, "choices": {"label": ["A"], "text": []}}], "as many labels as texts"),
        ([{**OWN, "answer": None}], "found none of 'a'; a test set without answers"),
        ([], "expected at least one puzzle, found none"),
    ],
)
def test_what_is_wrong_is_named(file, records, message):
    with pytest.raises(ValueError, match=message):
        read_puzzles(file("a.jsonl", records))


def test_files_that_are_none(tmp_path, file):
    with pytest.raises(ValueError, match="one of factlm-train, .* found no file nowhere.jsonl"):
        read_puzzles("nowhere.jsonl")
    (tmp_path / "a.csv").write_text("id")
    with pytest.raises(ValueError, match="ending in .npy, .json or .jsonl, found"):
        read_puzzles(tmp_path / "a.csv")
    (tmp_path / "a.jsonl").write_text(json.dumps(OWN) + "\n{")
    with pytest.raises(ValueError, match="a.jsonl, line 2: expected JSON, found"):
        read_puzzles(tmp_path / "a.jsonl")
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(ValueError, match="expected a JSON list of records, found dict"):
        read_puzzles(tmp_path / "a.json")
    (tmp_path / "a.json").write_bytes(b"\xff")
    with pytest.raises(ValueError, match="expected UTF-8 text"):
        read_puzzles(tmp_path / "a.json")


def test_several_files_are_one(file):
    first, second = file("a.jsonl", [OWN]), file("b.jsonl", [{**OWN, "id": "b"}])
    assert [puzzle.id for puzzle in read_sources(f"{first}, {second}")] == ["a", "b"]
    with pytest.raises(ValueError, match="found 'a' 2 times"):
        read_sources(f"{first},{first}")


def test_choices_are_shuffled_by_seed_and_id_alone():
    puzzles = [Puzzle(str(i), "?", tuple("abcd"), 1, order=(0, 1, 2, 3)) for i in range(200)]
    found = shuffled(puzzles, seed=3)
    assert found == shuffled(puzzles, seed=3) != shuffled(puzzles, seed=4)
    assert found[7:9] == shuffled(puzzles[7:9], seed=3)
    for puzzle in found:
        assert puzzle.choices[puzzle.answer] == "b"
        assert tuple("abcd"[place] for place in puzzle.order) == puzzle.choices
    counts = np.bincount([puzzle.answer for puzzle in found], minlength=4)
    assert counts.min() > 30
    assert shuffled(shuffled(puzzles, 1), 2)[0].order != found[0].order


def test_random_answers_leave_the_rest():
    puzzles = [Puzzle(str(i), "?", tuple("abcd"), 1) for i in range(200)]
    drawn = with_random_answers(puzzles, 0)
    assert [p.choices for p in drawn] == [p.choices for p in puzzles]
    assert np.bincount([p.answer for p in drawn], minlength=4).min() > 30


def test_a_share_is_held_out_by_groups():
    puzzles = [
        Puzzle(f"{g}{v}", "?", ("a", "b"), 0, f"{g}", v) for g in range(20) for v in VARIANTS
    ]
    held = held_out(puzzles, 0.1, seed=0)
    assert len(held) == 6 and len({p.group for p in held}) == 2
    with pytest.raises(ValueError, match="expected two groups at least"):
        held_out(puzzles[:3], 0.1, seed=0)


def test_puzzles_are_told_apart_by_what_they_ask():
    """By no id: that of one file may come again in another, and a puzzle under another id."""
    one = Puzzle("1", "Which?", ("this", "that"), 0)
    others = [Puzzle("1", "Who?", ("this", "that"), 0), Puzzle("1", "Which?", ("this", "it"), 0)]
    copy = Puzzle("2", "Which?", ("that", "this"), 1)
    assert without([one, *others, copy], [copy]) == others


def test_an_answer_is_spaced_as_its_choices_are_and_a_group_may_be_zero(tmp_path):
    path = tmp_path / "own.jsonl"
    record = {"question": "Which?", "choices": ["York ", "New  York"], "answer": "New York "}
    variants = ("original", "semantic", "context")
    lines = [record | {"id": i, "group": 0, "variant": v} for i, v in enumerate(variants)]
    path.write_text("\n".join(map(json.dumps, lines)))
    assert [(p.answer, p.group) for p in read_puzzles(path)] == [(1, "0")] * 3
