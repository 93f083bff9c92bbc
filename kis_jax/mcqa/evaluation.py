"""How a model answers puzzles: all that `kis mcqa eval` writes down."""

from __future__ import annotations

import dataclasses
import importlib.metadata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerFast

from kis_jax.checkpoints import fingerprint
from kis_jax.checkpoints.hub import locate
from kis_jax.checkpoints.loading import load_model
from kis_jax.checkpoints.multiple_choice import load_multiple_choice
from kis_jax.checkpoints.opening import read_config
from kis_jax.checkpoints.tokenizers import require_tokenizer
from kis_jax.data.batches import token_budget
from kis_jax.data.puzzles import Puzzle, puzzles_fingerprint, read_sources, shuffled
from kis_jax.models import ModelConfig
from kis_jax.passes.choices.metrics import choice_metrics, confusion, in_file_order, predictions_of
from kis_jax.passes.choices.scores import PRIOR_PROMPT, PROMPT, head_scores, likelihood_scores


@dataclasses.dataclass(frozen=True)
class EvalRequest:
    """What is asked of an evaluation.

    Attributes:
      model: a local directory or a hub name, of an encoder with a head over choices or a decoder.
      puzzles: files, joined by commas.
      answers: whether there are right answers; without them there are predictions alone.
      prompt: of a decoder, with one `{}` for the question.
      prior_prompt: of a decoder, before a choice where nothing is asked.
      seed: of the order in which choices are read.
      labels: a file with the right answers; None where the puzzles have theirs.
    """

    model: str
    puzzles: str
    answers: bool = True
    prompt: str = PROMPT
    prior_prompt: str = PRIOR_PROMPT
    seed: int = 0
    labels: str | None = None


@dataclasses.dataclass(frozen=True)
class EvalInputs:
    """The files that a request names, opened and checked; the weights are not read yet.

    Attributes:
      request: that opened them.
      directory: of the checkpoint.
      config: of the model.
      tokenizer: of the model.
      puzzles: their choices shuffled.
    """

    request: EvalRequest
    directory: Path
    config: ModelConfig
    tokenizer: PreTrainedTokenizerFast
    puzzles: list[Puzzle]


def open_eval(request: EvalRequest) -> EvalInputs:
    """Opens all that a request names.

    Raises:
      ValueError: naming what is wrong, before anything is computed; groups that lack a variant too.
    """
    read = read_sources(request.puzzles, answers=request.answers, labels=request.labels)
    puzzles = shuffled(read, request.seed)
    if request.answers:  # what metrics would refuse in the end
        choice_metrics(puzzles, np.zeros(len(puzzles), int))
    directory = locate(request.model)
    _, config = read_config(directory)
    tokenizer = require_tokenizer(directory)
    return EvalInputs(request, directory, config, tokenizer, puzzles)


def evaluate_choices(inputs: EvalInputs) -> dict[str, Any]:
    """Answers all puzzles, by each way of scoring that the model has.

    Args:
      inputs: of `open_eval`.

    Returns:
      The content of `mcqa.json`, plain JSON values.

    Raises:
      ValueError: if an encoder has no trained head, or a puzzle does not fit the model; the
        subclass `NotFiniteError` if a score is NaN.
    """
    puzzles = inputs.puzzles
    return {
        "format": 1,
        "version": importlib.metadata.version("kis_jax"),
        "model": inputs.request.model,
        "family": inputs.config.family,
        "settings": dataclasses.asdict(inputs.request),
        "fingerprints": {
            "model": fingerprint.of_model(inputs.directory),
            "tokenizer": fingerprint.of_tokenizer(inputs.tokenizer),
            "puzzles": puzzles_fingerprint(puzzles),
        },
        "num_puzzles": len(puzzles),
        "num_choices": len(puzzles[0].choices),
        "methods": [_method(inputs, name, scores) for name, scores in _scores(inputs).items()],
        "puzzles": [
            {
                "id": puzzle.id,
                "variant": puzzle.variant,
                "question": puzzle.question,
                "choices": _in_file(puzzle, puzzle.choices),
                "answer": None if puzzle.answer is None else puzzle.order[puzzle.answer],
            }
            for puzzle in puzzles
        ],
    }


def _scores(inputs: EvalInputs) -> dict[str, np.ndarray]:
    """Scores of all choices, by the name of the way."""
    if not inputs.config.causal:
        model, fresh = load_multiple_choice(inputs.directory)
        if fresh:
            raise ValueError(
                f"{inputs.directory}: expected a model with a trained head over choices, found "
                f"no {', '.join(fresh)}, or of another shape; train one with kis mcqa train"
            )
        return {"head": head_scores(model, inputs.tokenizer, inputs.puzzles)}
    found = likelihood_scores(
        load_model(inputs.directory),
        inputs.tokenizer,
        inputs.puzzles,
        token_budget=token_budget(inputs.config),
        prompt=inputs.request.prompt,
        prior_prompt=inputs.request.prior_prompt,
    )
    return {"likelihood": found.after_question, "likelihood without prior": found.without_prior}


def _method(inputs: EvalInputs, name: str, scores: np.ndarray) -> dict[str, Any]:
    predictions = predictions_of(scores)
    scored = inputs.request.answers
    return {
        "method": name,
        "metrics": choice_metrics(inputs.puzzles, predictions) if scored else None,
        "confusion": confusion(inputs.puzzles, predictions).tolist() if scored else None,
        "predictions": in_file_order(inputs.puzzles, predictions),
        "scores": [
            _in_file(puzzle, row)
            for puzzle, row in zip(inputs.puzzles, scores.tolist(), strict=True)
        ],
    }


def _in_file(puzzle: Puzzle, values: Sequence[Any]) -> list[Any]:
    """What belongs to the choices, in the order that these have in the file."""
    return [values[puzzle.order.index(place)] for place in range(len(values))]
