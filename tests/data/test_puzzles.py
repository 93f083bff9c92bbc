"""Puzzles from each layout, and whatever is wrong with them named."""

import json

import numpy as np
import pytest

from kis_jax.data.puzzles import (
    VARIANTS,
    Puzzle,
    PuzzlesNoted,
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
        (
            [{**OWN, "answer": "Nobody"}],
            r"record 1 \(a\): .* found 'Nobody': there is no one right",
        ),
        ([{**OWN, "answer": 3}], r"record 1 \(a\), answer: .* 0 to 2, found 3: there is no right"),
        ([{**OWN, "answer": True}], "found True"),
        ([{**OWN, "choices": ["You", "You", "I"]}], "there is no one right answer"),
        ([{**OWN, "choices": ["You", None, float("nan")]}], "two choices or more"),
        ([{**OWN, "choices": ["You", None, "I"], "answer": 1}], "found that it is missing"),
        ([OWN, {"id": "b"}], "record 2: expected `choice_list` .* found id"),
        ([OWN, 3], "record 2: expected an object, found int"),
        ([{**OWN, "id": ""}], "record 1: expected an `id`"),
        ([{**OWN, "question": " "}], r"record 1 \(a\), question: expected a text"),
        ([{**OWN, "choices": ["You"]}], "two choices or more"),
        ([{**OWN, "choices": ["You", True]}], "choice 2: expected a text, found True"),
        ([{**OWN, "group": "g"}], "expected a `group` and a `variant`"),
        ([{**OWN, "group": "g", "variant": "odd"}], "found 'g' and 'odd'"),
        (
            [{**TEASER, "label": 4}],
            r"record 1 \(SP-3\), label: .* found 4: there is no right answer",
        ),
        ([{**RIDDLE, "answerKey": "C"}], r"record 1 \(r1\): .* one of A, B, found 'C'"),
        ([{**RIDDLE, "question": {"stem": "x", "choices": "ab"}}], "of `label` and `text` each"),
        ([{**OWN, "choices": {"label": ["A"], "text": []}}], "as many labels as texts"),
        ([{**OWN, "answer": None}], "found none of 'a'; a test set without answers"),
        ([], "found nothing but blanks"),
    ],
)
def test_what_is_wrong_is_named(file, records, message):
    with pytest.raises(ValueError, match=message):
        read_puzzles(file("a.jsonl", records))


def test_files_that_are_none(tmp_path, file):
    with pytest.raises(ValueError, match="one of factlm-train, .* found no file nowhere.jsonl"):
        read_puzzles("nowhere.jsonl")
    (tmp_path / "a.csv").write_text("id")
    with pytest.raises(ValueError, match="a.csv: expected JSON, found Expecting value at line 1"):
        read_puzzles(tmp_path / "a.csv")
    (tmp_path / "a.jsonl").write_text(json.dumps(OWN) + "\n{")
    with pytest.raises(ValueError, match="a.jsonl: expected JSON, found .* at line 2 column 2"):
        read_puzzles(tmp_path / "a.jsonl")
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(ValueError, match="record 1: expected `choice_list` .* found nothing"):
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


def test_where_label_and_answer_disagree_the_label_counts_and_the_group_stays(file):
    records = [TEASER, TEASERS[1] | {"label": 3, "answer": "They all do."}, TEASERS[2]]
    told = (
        r"puzzles: 1 notes: .*, record 2 \(SP-3_SR\): `label` names the choice 'None of above.', "
        r"`answer` has 'They all do.'; the label counts"
    )
    for name in ("SP.npy", "SP.json"):
        with pytest.warns(PuzzlesNoted, match=told):
            puzzles = read_puzzles(file(name, records))
        assert [puzzle.answer for puzzle in puzzles] == [2, 3, 2]
        assert {puzzle.group for puzzle in puzzles} == {"SP-3"}


@pytest.mark.parametrize("name", ["WP.npy", "WP.jsonl"])
def test_numbers_that_are_none_among_choices_are_missing_ones(file, name):
    choices = ["He wants to.", float("nan"), "He is a barber.", 7]
    with pytest.warns(PuzzlesNoted, match="a choice is missing, and is never taken"):
        (puzzle,) = read_puzzles(file(name, [TEASER | {"choice_list": choices}]))
    assert puzzle.choices == ("He wants to.", "", "He is a barber.", "7")
    assert puzzle.spoken == ("He wants to.", "He wants to.", "He is a barber.", "7")
    assert {p.answer for p in with_random_answers([puzzle] * 50, 0)} == {0, 2, 3}
    for one in shuffled([puzzle] * 20, 1):
        assert one.choices[one.answer] == "He is a barber." and "" in one.choices


def test_a_choice_that_stands_twice_is_named_and_scored_by_its_place(file):
    choices = ["He is a barber.", "He has two razors.", "He is a barber.", "None of above."]
    with pytest.warns(PuzzlesNoted, match="the choice 'He is a barber.' stands twice"):
        (puzzle,) = read_puzzles(file("a.jsonl", [TEASER | {"choice_list": choices}]))
    assert puzzle.answer == 2 and puzzle.choices == tuple(choices)


UNKNOWN = [{"question": TEASER["question"], "choice_list": TEASER["choice_list"]}] * 3


@pytest.mark.parametrize(
    "labels",
    [
        np.array([2, 0, 3]),
        np.array([[0, 2], [2, 3], [1, 0]]),
        np.array([["record 3", "3"], ["record 1", "2"], ["record 2", "0"]]),
        np.array([["record 1", 2], ["record 2", 0], ["record 3", 3]], object),
        np.array([2, 0, 3], object),
    ],
    ids=["places", "numbered", "texts", "objects", "objects in a row"],
)
def test_labels_may_stand_in_a_file_of_their_own(file, tmp_path, labels):
    path, puzzles = tmp_path / "labels.npy", file("SP.npy", UNKNOWN)
    np.save(path, labels, allow_pickle=True)
    found = read_puzzles(puzzles, labels=path)
    assert [puzzle.answer for puzzle in found] == [2, 0, 3]
    path = tmp_path / "labels.json"
    path.write_text(json.dumps(labels.tolist()))
    assert read_puzzles(puzzles, labels=path) == found
    if labels.ndim == 2:
        np.save(path.with_suffix(".npy"), labels, allow_pickle=True)
        with pytest.raises(ValueError, match="in a file of their own with --labels"):
            read_puzzles(path.with_suffix(".npy"))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([2, 0], "expected a label of each of 3 puzzles, found 2"),
        ([2, 0, 4], "the place of the right choice of 'record 3', 0 to 3, found 4"),
        ([2, 0, None], "found None"),
        ([["record 1", 2], ["record 2", 0], ["nobody", 3]], "found 'nobody' before the first"),
        ([["record 1", 2], ["record 1", 0], ["record 2", 3]], "each once"),
    ],
)
def test_labels_that_are_not_those_of_the_puzzles(file, tmp_path, labels, message):
    path = tmp_path / "labels.json"
    path.write_text(json.dumps(labels))
    with pytest.raises(ValueError, match=message):
        read_puzzles(file("SP.npy", UNKNOWN), labels=path)
    with pytest.raises(ValueError, match="labels: expected one file of puzzles"):
        read_sources(f"{tmp_path},{tmp_path}", labels=path)
    with pytest.raises(ValueError, match="labels: expected .* no file"):
        read_puzzles(file("SP.npy", UNKNOWN), labels=tmp_path / "none")
