"""Second moments on disk: saved while they are measured, reused only for the same run."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import orbax.checkpoint as ocp

from kis_jax.core.second_moment import SecondMoment

_STATE, _ABOUT = "second_moments", "about"


@dataclasses.dataclass(frozen=True)
class Saved:
    """Second moments over the first batches of a corpus.

    Attributes:
      moments: stacked over layers, NumPy float64.
      batches: how many batches they contain.
      token_budget: with which these batches were filled; a resumed pass must keep to it.
      complete: whether these are all.
    """

    moments: SecondMoment
    batches: int
    token_budget: int
    complete: bool


class SecondMomentStore:
    """A directory of second moments with the identity of the run that measures them.

    The identity (fingerprints of model, tokenizer and corpus, and settings) is saved with the sums:
    those of another run are refused, not reused. Each save is one orbax checkpoint, numbered by
    the batches that it contains, whole or absent; the one before it is then deleted.
    """

    def __init__(self, directory: Path, identity: Mapping[str, object]) -> None:
        """Opens the store, making the directory if need be.

        Args:
          directory: of the store.
          identity: plain JSON values.

        Raises:
          ValueError: if the directory holds the second moments of another run, naming in what
            they differ.
        """
        if directory.exists() and not directory.is_dir():
            raise ValueError(f"{directory}: expected a folder, found a file; delete or rename it")
        self.directory = directory
        self.identity = json.loads(json.dumps(identity))
        self._manager = ocp.CheckpointManager(
            directory.absolute(),
            options=ocp.CheckpointManagerOptions(max_to_keep=1, enable_async_checkpointing=False),
        )
        self._check_identity()

    def __enter__(self) -> Self:
        """Opened."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Closes the files."""
        self._manager.close()

    def save(self, saved: Saved) -> None:
        """Saves second moments in place of those saved before."""
        state = {"total": saved.moments.total, "count": saved.moments.count}
        about = {
            "identity": self.identity,
            "batches": saved.batches,
            "token_budget": saved.token_budget,
            "complete": saved.complete,
            "digest": _digest(saved.moments),
        }
        self._manager.save(
            saved.batches,
            args=ocp.args.Composite(
                **{
                    _STATE: ocp.args.StandardSave(state),
                    _ABOUT: ocp.args.JsonSave(about),
                }
            ),
        )

    def restore(self) -> Saved | None:
        """What was saved last, or None."""
        about = self._about()
        if about is None:
            return None
        state = self._read(_STATE, ocp.args.StandardRestore())
        moments = SecondMoment(state["total"], state["count"])
        if _digest(moments) != about["digest"]:
            raise self._damaged("its numbers are not those that were saved")
        return Saved(moments, about["batches"], about["token_budget"], about["complete"])

    def saved_identity(self) -> dict[str, Any] | None:
        """The whole identity of the run that saved last, or None."""
        about = self._about()
        return None if about is None else about["identity"]

    def _check_identity(self) -> None:
        about = self._about()
        if about is None:
            return
        found = about["identity"]
        different = sorted(name for name in self.identity if found.get(name) != self.identity[name])
        if different:
            self._manager.close()
            raise ValueError(
                f"{self.directory}: expected second moments of this run, found those of another: "
                f"{', '.join(different)} differ; choose another output folder, or delete this one"
            )

    def _about(self) -> dict[str, Any] | None:
        """What is known of the last save, or None if there is none."""
        if self._manager.latest_step() is None:
            return None
        about = self._read(_ABOUT, ocp.args.JsonRestore())
        names = {"identity", "batches", "token_budget", "complete", "digest"}
        if not isinstance(about, dict) or about.keys() != names:
            raise self._damaged("it was written by another version of kis_jax")
        return about

    def _read(self, item: str, how: Any) -> Any:
        """One part of the last save."""
        try:
            step = self._manager.latest_step()
            return self._manager.restore(step, args=ocp.args.Composite(**{item: how}))[item]
        except Exception as error:  # orbax, tensorstore, json and the system raise many kinds
            raise self._damaged(f"{type(error).__name__} while reading `{item}`") from error

    def _damaged(self, reason: str) -> ValueError:
        self._manager.close()
        return ValueError(
            f"{self.directory}: expected second moments as kis_jax saved them, found that "
            f"{reason}; delete this folder and run again"
        )


def _digest(moments: SecondMoment) -> str:
    """SHA-256 of the numbers themselves."""
    digest = hashlib.sha256(np.ascontiguousarray(moments.total).data)
    digest.update(np.ascontiguousarray(moments.count).data)
    return digest.hexdigest()
