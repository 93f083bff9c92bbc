"""Fine-tuning on puzzles: stage after stage, epoch after epoch, to be left and taken up again."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from kis_jax.checkpoints.files import (
    check_replaceable,
    read_json,
    write_atomically,
    write_directory_atomically,
)
from kis_jax.checkpoints.multiple_choice import load_multiple_choice, save_multiple_choice
from kis_jax.data.choices import epoch, tokenize_choices
from kis_jax.mcqa.inputs import TrainInputs
from kis_jax.mcqa.step import Learned, Parameters, Trainee
from kis_jax.mcqa.store import Saved, TrainingStore
from kis_jax.models import MultipleChoice
from kis_jax.passes.choices.scores import logits_of
from kis_jax.passes.not_finite import NotFiniteError

_OURS = re.compile(r"model|start|progress|training\.json|\..*\.partial(\.\w+)?")

OnEpoch = Callable[[dict[str, Any]], None]
"""Called with what is recorded of an epoch."""


@dataclasses.dataclass
class _Position:
    """Where a run is.

    Attributes:
      stage: that is being run, or the number of stages at the end.
      epoch: of the stage, how many are done.
      history: what was recorded of each epoch of all stages.
      best: the validation of the best epoch of the stage, accuracy and loss; None before the first.
      stale: epochs since then.
    """

    stage: int = 0
    epoch: int = 0
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    best: list[float] | None = None
    stale: int = 0


def train(
    inputs: TrainInputs,
    model: MultipleChoice,
    directory: Path,
    *,
    on_epoch: OnEpoch = lambda told: None,
) -> tuple[MultipleChoice, dict[str, Any]]:
    """Fine-tunes a model; each stage ends with the parameters of its best epoch.

    All is saved after each epoch: the same call takes up a run that was killed, and ends with the
    same bits on the same devices.

    Args:
      inputs: of `open_training`.
      model: of `inputs`, in float32; it stays as it is.
      directory: of what is saved.
      on_epoch: called after each epoch.

    Returns:
      The model, and the content of `training.json`, plain JSON values.

    Raises:
      ValueError: if the directory holds another run, or a puzzle does not fit the model; the
        subclass `NotFiniteError` if the loss is no longer finite.
    """
    trainee = Trainee(
        model,
        dtype=inputs.request.dtype,
        devices=inputs.devices,
        parts=inputs.request.accumulate,
    )
    with TrainingStore(directory, inputs.identity) as store:
        run = _Run(inputs, trainee, store)
        run.to_the_end(on_epoch)
    return trainee.model(run.best), _record(inputs, run.position.history)


def train_into(
    inputs: TrainInputs, out: Path, *, on_epoch: OnEpoch = lambda told: None
) -> dict[str, Any]:
    """Fine-tunes the model that `inputs` name, and writes it.

    Args:
      inputs: of `open_training`.
      out: receives `model/` in HuggingFace layout, `training.json` and `progress/`.
      on_epoch: called after each epoch.

    Returns:
      The content of `training.json`.

    Raises:
      ValueError: as `train`; or if the model is no encoder with a head over choices.
    """
    model, fresh = load_multiple_choice(inputs.directory, seed=inputs.request.seed)
    trained, record = train(inputs, model, out / "progress", on_epoch=on_epoch)
    attributes = read_json(inputs.directory, "config.json")
    with write_directory_atomically(out / "model") as directory:
        save_multiple_choice(trained, directory, attributes, companions=inputs.directory)
    record["fresh"] = list(fresh)
    with write_atomically(out / "training.json") as path:
        path.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return record


def check_training_directory(out: Path, model: str) -> None:
    """Refuses an output folder that holds anything but fine-tuning, which is taken up or replaced.

    Args:
      out: of the run.
      model: that it starts from, which must not be what it replaces.

    Raises:
      ValueError: naming what is there instead.
    """
    check_replaceable(out, kind="run of kis mcqa train", foreign=_foreign)
    if Path(model).is_dir() and Path(model).resolve().is_relative_to(out.resolve()):
        raise ValueError(
            f"out: expected a folder that does not hold the model itself, found {model} within "
            f"{out}, which training would replace; choose another folder"
        )


def _foreign(out: Path) -> set[str]:
    names = {path.name for path in out.iterdir()}
    found = {name for name in names if not _OURS.fullmatch(name)}
    # A model without the record or the progress of its training is somebody else's.
    return found if names & {"training.json", "progress"} else found | (names & {"model"})


class _Run:
    """A run from where it is saved, or from its start."""

    def __init__(self, inputs: TrainInputs, trainee: Trainee, store: TrainingStore) -> None:
        self._inputs, self._trainee, self._store = inputs, trainee, store
        config = trainee.model(trainee.start).config
        self._stages = [tokenize_choices(p, inputs.tokenizer, config) for p in inputs.stages]
        self._validation = tokenize_choices(inputs.validation, inputs.tokenizer, config)
        self._most = config.context_length
        self.position = _Position()
        self._optimizer = self._optimizer_of(0)
        self._learned = trainee.again(trainee.start, self._optimizer)
        self.best: Parameters = trainee.again(trainee.start, self._optimizer).parameters
        saved = store.restore({"learned": self._learned, "best": self.best})
        if saved is not None:
            self._learned, self.best = saved.arrays["learned"], saved.arrays["best"]
            self.position = _Position(**saved.about)
            self._optimizer = self._optimizer_of(min(self.position.stage, len(self._stages) - 1))

    def to_the_end(self, on_epoch: OnEpoch) -> None:
        """Runs what is left of all stages."""
        for told in self.position.history:
            on_epoch(told)
        while self.position.stage < len(self._stages):
            update = self._trainee.updating(self._optimizer)
            stage = self.position.stage
            while self.position.stage == stage:
                on_epoch(self._epoch(update))

    def _epoch(self, update: Callable[..., tuple[Learned, Any]]) -> dict[str, Any]:
        """One epoch and its validation, saved; ends the stage if it was the last."""
        position, request = self.position, self._inputs.request
        rng = np.random.default_rng([request.seed, position.stage, position.epoch])
        losses, weights = [], []
        puzzles = self._stages[position.stage]
        rows, most, drop = self._inputs.rows(len(puzzles)), self._most, request.drop_tokens
        for batch in epoch(puzzles, rows=rows, most=most, rng=rng, drop=drop):
            self._learned, loss = update(self._learned, batch)
            losses.append(loss)
            weights.append(batch.weights.sum())
        position.epoch += 1
        told = {
            "stage": position.stage,
            "epoch": position.epoch,
            "loss": float(np.average(np.array(jnp.stack(losses)), weights=weights)),
            **self._validated(),
        }
        if not np.isfinite([told["loss"], told["validation_loss"]]).all():
            raise NotFiniteError(
                f"stage {position.stage + 1}, epoch {position.epoch}: expected a finite loss, "
                f"found {told['loss']}, in validation {told['validation_loss']}; lower the "
                "learning rate"
            )
        position.history.append(told)
        self._compare([told["validation_accuracy"], -told["validation_loss"]])
        over = position.epoch >= self._inputs.epochs(position.stage)
        if over or (request.patience and position.stale >= request.patience):
            self._next_stage()
        arrays = {"learned": self._learned, "best": self.best}
        self._store.save(len(position.history), Saved(arrays, dataclasses.asdict(position)))
        return told

    def _validated(self) -> dict[str, float]:
        """Accuracy and mean loss on the puzzles that a stage is stopped by."""
        model = self._trainee.running(self._learned.parameters)
        rows = self._inputs.request.batch_size
        logits = logits_of(model, self._validation, rows=rows)
        answers = np.array([puzzle.answer for puzzle in self._validation])
        return {
            "validation_loss": float(np.mean(_losses(logits, answers))),
            "validation_accuracy": float(np.mean(logits.argmax(axis=1) == answers)),
        }

    def _compare(self, found: list[float]) -> None:
        """Keeps the parameters if they are the best of the stage so far."""
        position = self.position
        position.stale += 1
        if position.best is None or found > position.best:
            position.best, position.stale = found, 0
            self.best = {name: jnp.array(x) for name, x in self._learned.parameters.items()}

    def _next_stage(self) -> None:
        position = self.position
        position.stage, position.epoch = position.stage + 1, 0
        position.best, position.stale = None, 0
        if position.stage < len(self._stages):
            self._optimizer = self._optimizer_of(position.stage)
            self._learned = self._trainee.again(self.best, self._optimizer)

    def _optimizer_of(self, stage: int) -> Any:
        updates = -(-len(self._stages[stage]) // self._inputs.request.batch_size)
        return self._inputs.schedule.optimizer(updates * self._inputs.epochs(stage))


def _losses(logits: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """Cross-entropy of each right choice."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    right = np.take_along_axis(shifted, answers[:, None], axis=1)[:, 0]
    return np.log(np.exp(shifted).sum(axis=1)) - right


def _record(inputs: TrainInputs, history: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "format": 1,
        "version": importlib.metadata.version("kis_jax"),
        "settings": {
            **dataclasses.asdict(inputs.request),
            "learning_rate": inputs.schedule.learning_rate,
            "devices": len(inputs.devices),
        },
        "fingerprints": inputs.fingerprints,
        "puzzles": [len(puzzles) for puzzles in inputs.stages],
        "validation_puzzles": len(inputs.validation),
        "history": history,
        "best": [_best(history, stage) for stage in range(len(inputs.stages))],
    }


def _best(history: list[dict[str, Any]], stage: int) -> dict[str, Any]:
    """The epoch whose parameters a stage ends with."""
    epochs = [told for told in history if told["stage"] == stage]
    return max(epochs, key=lambda told: (told["validation_accuracy"], -told["validation_loss"]))
