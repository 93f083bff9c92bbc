"""What fine-tuning on puzzles starts from: model, stages and settings, checked before any work."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import jax
from transformers import PreTrainedTokenizerFast

from kis_jax.checkpoints import fingerprint
from kis_jax.checkpoints.hub import locate
from kis_jax.checkpoints.multiple_choice import choice_head
from kis_jax.checkpoints.tokenizers import require_tokenizer
from kis_jax.data.puzzles import (
    Puzzle,
    held_out,
    puzzles_fingerprint,
    read_sources,
    shuffled,
    with_random_answers,
    without,
)
from kis_jax.mcqa.scratch import SCRATCH, make_scratch
from kis_jax.mcqa.step import Schedule

_SHARE_HELD_OUT = 0.1
# For a model that knows language already, and for one that knows nothing.
_RATE, _SCRATCH_RATE = 2e-5, 1e-3


@dataclasses.dataclass(frozen=True)
class TrainRequest:
    """What is asked of fine-tuning.

    Attributes:
      model: a local directory, a hub name, or "scratch", a small one that has learned nothing.
      stages: of each the files that are learned from, joined by commas; one stage after another.
      validation: files to stop by; None for a tenth of the groups of the last stage, which then no
        stage learns from.
      epochs: of each stage at most; the last number holds for all further ones.
      batch_size: puzzles an update.
      accumulate: parts in which a batch is run, one after another.
      learning_rate: at its peak; None for 2e-5, or 1e-3 from scratch.
      warmup: share of a stage's steps in which it rises.
      weight_decay: of matrices.
      drop_tokens: probability with which a token is hidden in learning; see `choices.epoch`.
      patience: epochs without a better validation after which a stage ends; 0 for none.
      dtype: of the computation; parameters and sums are float32.
      devices: how many share each batch; None for all.
      seed: of everything drawn at random.
      random_answers: whether right answers are drawn at random: a check that nothing is learned.
    """

    model: str
    stages: tuple[str, ...]
    validation: str | None = None
    epochs: tuple[int, ...] = (3,)
    batch_size: int = 16
    accumulate: int = 1
    learning_rate: float | None = None
    warmup: float = 0.1
    weight_decay: float = 0.01
    drop_tokens: float = 0.0
    patience: int = 0
    dtype: Literal["float32", "bfloat16"] = "float32"
    devices: int | None = None
    seed: int = 0
    random_answers: bool = False


@dataclasses.dataclass(frozen=True)
class TrainInputs:
    """The files that a request names, opened and checked; the weights are not read yet.

    Attributes:
      request: that opened them.
      directory: of the checkpoint that is started from.
      tokenizer: of the model.
      stages: the puzzles of each.
      validation: puzzles to stop by.
      schedule: of each stage.
      devices: of jax, that share each batch.
      fingerprints: of model, tokenizer and puzzles.
    """

    request: TrainRequest
    directory: Path
    tokenizer: PreTrainedTokenizerFast
    stages: list[list[Puzzle]]
    validation: list[Puzzle]
    schedule: Schedule
    devices: list[Any]
    fingerprints: dict[str, object]

    @property
    def identity(self) -> dict[str, object]:
        """What tells this run from another, whatever its files are called."""
        names = (
            "epochs", "batch_size", "accumulate", "drop_tokens", "patience", "dtype", "seed",
        )  # fmt: skip
        return {
            **self.fingerprints,
            **dataclasses.asdict(self.schedule),
            **{name: getattr(self.request, name) for name in names},
            "devices": len(self.devices),
        }

    def epochs(self, stage: int) -> int:
        """The most epochs of a stage."""
        return self.request.epochs[min(stage, len(self.request.epochs) - 1)]

    def rows(self, count: int) -> int:
        """Of a batch: as many as asked for, or as `count` puzzles fill."""
        parts = self.request.accumulate * len(self.devices)
        return min(self.request.batch_size, parts * -(-count // parts))


def open_training(request: TrainRequest, start: Path) -> TrainInputs:
    """Opens all that a request names, cheap things first.

    Args:
      request: what is asked.
      start: the directory of a model from scratch, which is made if that is asked for.

    Raises:
      ValueError: naming what is wrong, before anything is computed.
    """
    devices = _checked_devices(request)
    _check_numbers(request)
    stages = [shuffled(read_sources(sources), request.seed) for sources in request.stages]
    if request.validation is None:
        validation = held_out(stages[-1], _SHARE_HELD_OUT, seed=request.seed)
        stages = [without(puzzles, validation) for puzzles in stages]
    else:
        validation = shuffled(read_sources(request.validation), request.seed)
    if not all(stages):
        raise ValueError(
            "train: expected puzzles in every stage besides those that the last one is stopped by, "
            f"found none in {request.stages[stages.index([])]}; name others to stop by with "
            "--validation"
        )
    if request.random_answers:
        stages = [with_random_answers(puzzles, request.seed) for puzzles in stages]
        # Else the epoch that by chance does best on true answers would be chosen.
        validation = with_random_answers(validation, request.seed + 1)
    rate = request.learning_rate
    if request.model == SCRATCH:
        texts = (text for puzzles in stages for p in puzzles for text in (p.question, *p.choices))
        make_scratch(start, texts, seed=request.seed)
        directory, rate = start, rate or _SCRATCH_RATE
    else:
        directory, rate = locate(request.model), rate or _RATE
    choice_head(directory)
    tokenizer = require_tokenizer(directory)
    prints = {
        "model": fingerprint.of_model(directory),
        "tokenizer": fingerprint.of_tokenizer(tokenizer),
        "stages": [puzzles_fingerprint(puzzles) for puzzles in stages],
        "validation": puzzles_fingerprint(validation),
    }
    schedule = Schedule(rate, request.warmup, request.weight_decay)
    return TrainInputs(request, directory, tokenizer, stages, validation, schedule, devices, prints)


def parse_epochs(text: str) -> tuple[int, ...]:
    """Numbers of epochs from "2,10".

    Raises:
      ValueError: if it is of no such form.

    Examples:
      >>> parse_epochs("2,10")
      (2, 10)
    """
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ValueError(
            f"epochs: expected a number, or one for each stage such as 2,10, found {text!r}"
        ) from None


def _checked_devices(request: TrainRequest) -> list[Any]:
    found = jax.devices()
    count = len(found) if request.devices is None else request.devices
    if not 1 <= count <= len(found):
        raise ValueError(
            f"devices: expected 1 to {len(found)}, as many as there are, found {count}"
        )
    parts = request.accumulate * count
    if request.accumulate < 1 or request.batch_size < 1 or request.batch_size % parts:
        raise ValueError(
            "batch_size: expected a positive multiple of accumulate x devices, "
            f"{request.accumulate} x {count}, found {request.batch_size}"
        )
    return found[:count]


def _check_numbers(request: TrainRequest) -> None:
    if not request.stages:
        raise ValueError("train: expected a stage with puzzles to learn from, found none")
    named = 1 <= len(request.epochs) <= len(request.stages)
    if not named or not all(1 <= epochs < 2**31 for epochs in request.epochs):
        raise ValueError(
            f"epochs: expected one positive number, or one for each of {len(request.stages)} "
            f"stages, found {_joined(request.epochs)}"
        )
    rate = request.learning_rate
    if rate is not None and not 0 < rate < math.inf:
        raise ValueError(f"learning_rate: expected a positive number, found {rate}")
    if not 0 <= request.warmup < 1:
        raise ValueError(f"warmup: expected a share of 0 to below 1, found {request.warmup}")
    if not 0 <= request.weight_decay < math.inf:
        raise ValueError(f"weight_decay: expected 0 or more, found {request.weight_decay}")
    if not 0 <= request.drop_tokens < 1:
        raise ValueError(
            f"drop_tokens: expected a probability of 0 to below 1, found {request.drop_tokens}"
        )
    if request.patience < 0:
        raise ValueError(f"patience: expected 0 or more epochs, found {request.patience}")


def _joined(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers)) or "none"
