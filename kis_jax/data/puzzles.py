"""Multiple-choice puzzles: BRAINTEASER, RiddleSense, CommonsenseQA, and a layout of our own."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import json
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from kis_jax import factlm
from kis_jax.data.notes import DataNote
from kis_jax.data.puzzle_labels import read_labels
from kis_jax.data.puzzle_layouts import read_record
from kis_jax.data.records import iter_records
from kis_jax.data.safe_pickle import is_npy, read_object_array

Variant = Literal["original", "semantic", "context"]
_MOST_TOLD = 10
VARIANTS: tuple[Variant, ...] = get_args(Variant)


@dataclasses.dataclass(frozen=True)
class Puzzle:
    """A question with choices, one of which is right.

    Attributes:
      id: its name, of which a file has no two.
      question: the text.
      choices: at least two texts; "" stands for one that the file lacks.
      answer: the place of the right one among the choices; None where the file keeps it back.
      group: the puzzle that this is a variant of; "" if it stands for itself.
      variant: "original"; "semantic", the same in other words; "context", the same line of thought
        in another setting; or "" if it stands for itself.
      order: for each choice its place in the file.
    """

    id: str
    question: str
    choices: tuple[str, ...]
    answer: int | None
    group: str = ""
    variant: str = ""
    order: tuple[int, ...] = ()

    @property
    def spoken(self) -> tuple[str, ...]:
        """The choices for a model, which reads as many of each puzzle.

        In the stead of one that is missing stands another that is wrong, which cannot change what
        is right.
        """
        if all(self.choices):
            return self.choices
        wrong = next(c for place, c in enumerate(self.choices) if c and place != self.answer)
        return tuple(choice or wrong for choice in self.choices)


class PuzzlesNoted(DataNote):
    """Some puzzles of a file say something twice, or in two ways."""


def read_puzzles(
    source: str | Path, *, answers: bool = True, labels: str | Path | None = None
) -> list[Puzzle]:
    """Reads puzzles from a file.

    Layouts are told from one another by what a record holds:

    - BRAINTEASER: `id`, `question`, `choice_list`, `label`, and `answer` where it is published; ids
      that end in `_SR` and `_CR` are the semantic and the context reconstruction of the puzzle
      before that ending. `.npy` as published, or the same records as JSON;
    - RiddleSense and CommonsenseQA: `id`, `question` with `stem` and `choices` of `label` and
      `text` each, `answerKey`;
    - our own: `id`, `question`, `choices`, `answer` (the text of the right choice, or its place
      from 0), and `group` and `variant` where there are some.

    Args:
      source: a `.npy` file, or one of JSON, see `kis_jax.data.records.iter_records`; or
        "factlm-train", "factlm-validation" or "factlm-test", those that come with the package.
      answers: whether each puzzle must have a right answer; if not, those that have are read too.
      labels: a file with the right answers, see `kis_jax.data.puzzle_labels.read_labels`.

    Returns:
      The puzzles; a `PuzzlesNoted` warning tells what in them stands twice or in two ways.

    Raises:
      ValueError: naming the file and the line or record of whatever is missing, twice or not as
        expected. No code in a `.npy` file is run; see `read_object_array`.

    Examples:
      >>> puzzle, *_ = read_puzzles("factlm-test")
      >>> len(puzzle.choices), puzzle.variant
      (4, 'original')
    """
    shipped = str(source).removeprefix(f"{factlm.NAME}-")
    is_shipped = shipped != str(source) and shipped in factlm.PUZZLE_SPLITS
    path = factlm.puzzles_path(shipped) if is_shipped else Path(source)
    if not path.is_file():
        names = ", ".join(f"{factlm.NAME}-{split}" for split in factlm.PUZZLE_SPLITS)
        raise ValueError(
            f"puzzles: expected a .npy or JSON file, or one of {names}, found no file {source}"
        )
    notes: list[str] = []
    puzzles = [
        Puzzle(**read_record(record, where, notes), order=()) for where, record in _records(path)
    ]
    if not puzzles:
        raise ValueError(f"{path}: expected at least one puzzle, found none")
    if notes:
        more = f"; and {len(notes) - _MOST_TOLD} more" if len(notes) > _MOST_TOLD else ""
        told = "; ".join(notes[:_MOST_TOLD])
        warnings.warn(f"puzzles: {len(notes)} notes: {told}{more}", PuzzlesNoted, stacklevel=2)
    if labels is not None:
        told = read_labels(labels, [(p.id, len(p.choices)) for p in puzzles])
        puzzles = [dataclasses.replace(p, answer=a) for p, a in zip(puzzles, told, strict=True)]
    _check(puzzles, path, answers)
    return [dataclasses.replace(p, order=tuple(range(len(p.choices)))) for p in puzzles]


def read_sources(
    sources: str, *, answers: bool = True, labels: str | Path | None = None
) -> list[Puzzle]:
    """Reads puzzles from several files as one; see `read_puzzles`.

    Args:
      sources: files, or names of shipped puzzles, joined by commas.
      answers: whether each puzzle must have a right answer.
      labels: a file with the right answers of a single file of puzzles.

    Raises:
      ValueError: as `read_puzzles`; also at what two files have in common and may not, such as ids.
    """
    names = [name.strip() for name in sources.split(",")]
    if len(names) == 1:
        return read_puzzles(names[0], answers=answers, labels=labels)
    if labels is not None:
        raise ValueError(f"labels: expected one file of puzzles beside them, found {len(names)}")
    puzzles = [puzzle for name in names for puzzle in read_puzzles(name, answers=answers)]
    _check(puzzles, sources, answers)
    return puzzles


def held_out(puzzles: Sequence[Puzzle], share: float, *, seed: int) -> list[Puzzle]:
    """A random share of the puzzles; groups are kept together.

    Raises:
      ValueError: if that would be all of them.
    """
    names = [puzzle.group or puzzle.id for puzzle in puzzles]
    groups = list(dict.fromkeys(names))
    count = max(1, round(share * len(groups)))
    if count >= len(groups):
        raise ValueError(
            f"puzzles: expected two groups at least, one of them to stop by, found {len(groups)}; "
            "name others to stop by with --validation"
        )
    chosen = np.random.default_rng(seed).permutation(len(groups))[:count]
    held = {groups[place] for place in chosen}
    return [puzzle for name, puzzle in zip(names, puzzles, strict=True) if name in held]


def without(puzzles: Sequence[Puzzle], others: Sequence[Puzzle]) -> list[Puzzle]:
    """The puzzles that are none of the others: of another question, or with other choices.

    Examples:
      >>> puzzle = Puzzle("a", "Which?", ("this", "that"), 0)
      >>> without([puzzle], [Puzzle("b", "Which?", ("that", "this"), 1)])
      []
    """
    known = {(other.question, frozenset(other.choices)) for other in others}
    return [p for p in puzzles if (p.question, frozenset(p.choices)) not in known]


def shuffled(puzzles: Sequence[Puzzle], seed: int) -> list[Puzzle]:
    """The puzzles, the choices of each in another order, which depends on its id and the seed.

    Examples:
      >>> puzzle = Puzzle("a", "Which?", ("this", "that", "none"), 2, order=(0, 1, 2))
      >>> other, = shuffled([puzzle], seed=1)
      >>> other.choices[other.answer], [puzzle.choices[place] for place in other.order]
      ('none', ['that', 'none', 'this'])
    """
    return [_reordered(puzzle, _order(puzzle, seed)) for puzzle in puzzles]


def with_random_answers(puzzles: Sequence[Puzzle], seed: int) -> list[Puzzle]:
    """The puzzles, a random choice of each taken for right: from these nothing can be learned."""
    rng = np.random.default_rng(seed)
    found = []
    for puzzle in puzzles:
        present = [place for place, choice in enumerate(puzzle.choices) if choice]
        answer = present[int(rng.integers(len(present)))]
        found.append(dataclasses.replace(puzzle, answer=answer))
    return found


def puzzles_fingerprint(puzzles: Sequence[Puzzle]) -> str:
    """SHA-256 of the puzzles, each in full."""
    content = json.dumps([dataclasses.astuple(puzzle) for puzzle in puzzles], ensure_ascii=False)
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()


def _order(puzzle: Puzzle, seed: int) -> list[int]:
    """Drawn for each puzzle alone, so that its order does not depend on what else a file holds."""
    digest = hashlib.sha256(f"{seed}:{puzzle.id}".encode("utf-8", "surrogatepass")).digest()
    rng = np.random.default_rng(int.from_bytes(digest[:8]))
    return rng.permutation(len(puzzle.choices)).tolist()


def _reordered(puzzle: Puzzle, order: Sequence[int]) -> Puzzle:
    return dataclasses.replace(
        puzzle,
        choices=tuple(puzzle.choices[place] for place in order),
        answer=None if puzzle.answer is None else order.index(puzzle.answer),
        order=tuple(puzzle.order[place] for place in order),
    )


def _records(path: Path) -> Iterator[tuple[str, Any]]:
    """The records of a file, each with where it stands, for messages."""
    if is_npy(path):
        for number, record in enumerate(read_object_array(path), 1):
            yield f"{path}, record {number}", record
    else:
        for where, record in iter_records(path):
            yield f"{path}, {where}", record


def _check(puzzles: Sequence[Puzzle], path: str | Path, answers: bool) -> None:
    """Raises ValueError at what no single record shows."""
    counted = collections.Counter(puzzle.id for puzzle in puzzles)
    twice = [name for name, count in counted.items() if count > 1]
    if twice:
        raise ValueError(
            f"{path}: expected every id once, found {twice[0]!r} {counted[twice[0]]} times"
            + (f", and {len(twice) - 1} more ids twice or more" if len(twice) > 1 else "")
            + "; rename or remove the copies"
        )
    first = puzzles[0]
    for puzzle in puzzles:
        if len(puzzle.choices) != len(first.choices):
            raise ValueError(
                f"{path}: expected {len(first.choices)} choices of every puzzle, as {first.id!r} "
                f"has, found {len(puzzle.choices)} of {puzzle.id!r}; put them into separate files"
            )
        if answers and puzzle.answer is None:
            raise ValueError(
                f"{path}: expected a right answer of every puzzle, found none of {puzzle.id!r}; a "
                "test set without answers can be predicted (kis mcqa eval --no-answers), not "
                "scored or learned from"
            )
