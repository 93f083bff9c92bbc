"""Puzzles as batches of tokens: each question paired with each of its choices."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
from transformers import PreTrainedTokenizerFast

from kis_jax.data.puzzles import Puzzle
from kis_jax.models import EncoderConfig

# Texts of a batch are padded to a multiple of this, so that few shapes are compiled.
_STEP = 16


@dataclasses.dataclass(frozen=True)
class TokenizedPuzzle:
    """A puzzle in tokens, its choices in their order.

    Attributes:
      tokens: of each choice the ids of question and choice, with all special tokens.
      types: of each of these, 0 for the question and 1 for the choice; all 0 if the model has no
        second type.
      answer: the place of the right choice, -1 if there is none.
    """

    tokens: tuple[list[int], ...]
    types: tuple[list[int], ...]
    answer: int

    @property
    def length(self) -> int:
        """Tokens of the longest text."""
        return max(map(len, self.tokens))


@dataclasses.dataclass(frozen=True)
class ChoiceBatch:
    """Some puzzles as arrays.

    Attributes:
      tokens: `(b, c, t)` int32, padded on the right with zeros.
      mask: `(b, c, t)` bool, False at padding; a row that holds no puzzle has one token a choice.
      types: `(b, c, t)` int32.
      answers: `(b,)` int32.
      weights: `(b,)` float32, 1 for a puzzle and 0 for a row that holds none.
    """

    tokens: np.ndarray
    mask: np.ndarray
    types: np.ndarray
    answers: np.ndarray
    weights: np.ndarray


def tokenize_choices(
    puzzles: Sequence[Puzzle], tokenizer: PreTrainedTokenizerFast, config: EncoderConfig
) -> list[TokenizedPuzzle]:
    """Tokenizes each question with each of its choices, as the tokenizer pairs two texts.

    Args:
      puzzles: to be tokenized.
      tokenizer: of the model.
      config: of the model.

    Raises:
      ValueError: naming a puzzle that is longer than the model's context, or whose tokens the model
        does not know.
    """
    if not puzzles:
        return []
    questions = [puzzle.question for puzzle in puzzles for _ in puzzle.choices]
    choices = [choice for puzzle in puzzles for choice in puzzle.spoken]
    encoded = tokenizer(questions, choices, return_token_type_ids=True, return_attention_mask=False)
    rows = iter(zip(encoded["input_ids"], encoded["token_type_ids"], strict=True))
    found = []
    for puzzle in puzzles:
        tokens, types = zip(*(next(rows) for _ in puzzle.choices), strict=True)
        if config.token_types < 2:
            types = tuple([0] * len(row) for row in types)
        answer = -1 if puzzle.answer is None else puzzle.answer
        tokenized = TokenizedPuzzle(tokens, types, answer)
        if tokenized.length > config.context_length:
            raise ValueError(
                f"puzzle {puzzle.id!r}: expected at most {config.context_length} tokens with each "
                f"choice, the model's context, found {tokenized.length}; shorten it or leave it out"
            )
        if max(map(max, tokens)) >= config.vocab_size:
            raise ValueError(
                f"puzzle {puzzle.id!r}: expected tokens below {config.vocab_size}, the model's "
                "vocabulary, found others; the tokenizer belongs to another model"
            )
        found.append(tokenized)
    return found


def make_batch(puzzles: Sequence[TokenizedPuzzle], *, rows: int, most: int) -> ChoiceBatch:
    """Puzzles with one number of choices as one batch of a number of rows, some perhaps empty.

    Args:
      puzzles: at least one and at most `rows`.
      rows: of the batch.
      most: the model's context; texts are padded up to a multiple of 16, but no further than this.
    """
    choices = len(puzzles[0].tokens)
    longest = max(puzzle.length for puzzle in puzzles)
    length = min(most, -(-longest // _STEP) * _STEP)
    shape = (rows, choices, length)
    tokens, types = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    mask = np.zeros(shape, bool)
    mask[len(puzzles) :, :, 0] = True  # attention over no token at all is not a number
    answers, weights = np.zeros(rows, np.int32), np.zeros(rows, np.float32)
    for row, puzzle in enumerate(puzzles):
        for choice, (ids, kinds) in enumerate(zip(puzzle.tokens, puzzle.types, strict=True)):
            tokens[row, choice, : len(ids)] = ids
            types[row, choice, : len(ids)] = kinds
            mask[row, choice, : len(ids)] = True
        answers[row], weights[row] = max(puzzle.answer, 0), 1.0
    return ChoiceBatch(tokens, mask, types, answers, weights)


def in_batches(
    puzzles: Sequence[TokenizedPuzzle], *, rows: int, most: int
) -> Iterator[ChoiceBatch]:
    """All puzzles in their order, so many at a time; the last batch has empty rows."""
    for start in range(0, len(puzzles), rows):
        yield make_batch(puzzles[start : start + rows], rows=rows, most=most)


def epoch(
    puzzles: Sequence[TokenizedPuzzle],
    *,
    rows: int,
    most: int,
    rng: np.random.Generator,
    drop: float = 0.0,
) -> Iterator[ChoiceBatch]:
    """All puzzles once, in random order.

    Args:
      puzzles: with one number of choices.
      rows: of a batch.
      most: the model's context.
      rng: of all that is random.
      drop: the probability with which a token is hidden from all others, drawn anew for each but
        the first of a text; so that no puzzle is known by heart from a few of its words.
    """
    order = rng.permutation(len(puzzles))
    for batch in in_batches([puzzles[place] for place in order], rows=rows, most=most):
        if drop:
            kept = rng.random(batch.mask.shape) >= drop
            kept[..., 0] = True
            batch = dataclasses.replace(batch, mask=batch.mask & kept)
        yield batch
