"""Second moments on disk: saved while they are measured, reused only for the same run."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import jax
import numpy as np
import orbax.checkpoint as ocp

from kis_jax.checkpoints.files import room_for
from kis_jax.core.geometry.second_moment import SecondMoment
from kis_jax.passes.convergence import Look, Spread
from kis_jax.passes.second_moments import Pending

_STATE, _PENDING, _ABOUT = "second_moments", "pending", "about"


@dataclasses.dataclass(frozen=True)
class Saved:
    """Second moments over the first batches of a corpus.

    Attributes:
      moments: stacked over layers, NumPy float64.
      batches: how many batches they contain.
      token_budget: with which these batches were filled; a resumed pass must keep to it.
      complete: whether these are all.
      pending: sums of the last of these batches, which `moments` does not contain yet: a pass that
        is taken up adds them where the undisturbed one would have.
      spread: of the parts of which `moments` are the sum; None if it was not measured.
      looks: at their convergence, as `kis_jax.passes.convergence.Look` has them.
    """

    moments: SecondMoment
    batches: int
    token_budget: int
    complete: bool
    pending: Pending | None = None
    spread: Spread | None = None
    looks: tuple[Look, ...] = ()


class SecondMomentStore:
    """A directory of second moments with the identity of the run that measures them.

    The identity (fingerprints of model, tokenizer and corpus, and settings) is saved with the sums:
    those of another run are refused, not reused. Each save is one orbax checkpoint, numbered in
    their order, whole or absent; the one before it is then deleted.
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
        directory.mkdir(parents=True, exist_ok=True)
        self._manager = ocp.CheckpointManager(
            directory.absolute(),
            options=ocp.CheckpointManagerOptions(
                create=False,
                max_to_keep=1,
                enable_async_checkpointing=False,
                multiprocessing_options=_this_process_alone(),
            ),
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
        parts = {_STATE: saved.moments}
        if saved.pending is not None:
            parts[_PENDING] = saved.pending.moments
        about = {
            "identity": self.identity,
            "batches": saved.batches,
            "token_budget": saved.token_budget,
            "complete": saved.complete,
            "pending": 0 if saved.pending is None else saved.pending.batches,
            "digest": _digest(*parts.values()),
            "spread": None if saved.spread is None else saved.spread.as_json(),
            "looks": [dataclasses.asdict(look) for look in saved.looks],
        }
        size = sum(np.asarray(part.total).nbytes for part in parts.values())
        with room_for(self.directory, size):
            # Orbax leaves a step alone that is there, so that the end needs one of its own.
            self._manager.save(
                2 * saved.batches + saved.complete,
                args=ocp.args.Composite(
                    **{
                        name: ocp.args.StandardSave({"total": part.total, "count": part.count})
                        for name, part in parts.items()
                    },
                    **{_ABOUT: ocp.args.JsonSave(about)},
                ),
            )

    def restore(self) -> Saved | None:
        """What was saved last, or None."""
        about = self._about()
        if about is None:
            return None
        names = [_STATE, _PENDING] if about["pending"] else [_STATE]
        parts = [SecondMoment(**self._read(name, ocp.args.StandardRestore())) for name in names]
        if _digest(*parts) != about["digest"]:
            raise self._damaged("its numbers are not those that were saved")
        pending = Pending(parts[1], about["pending"]) if about["pending"] else None
        return Saved(
            parts[0],
            about["batches"],
            about["token_budget"],
            about["complete"],
            pending,
            None if about["spread"] is None else Spread.from_json(about["spread"]),
            tuple(Look(**look) for look in about["looks"]),
        )

    def progress(self) -> tuple[int, bool] | None:
        """How many batches were saved last, and whether these are all; None if nothing was."""
        about = self._about()
        return None if about is None else (about["batches"], about["complete"])

    @property
    def looks(self) -> tuple[Look, ...]:
        """At the convergence of what was saved last."""
        about = self._about()
        return () if about is None else tuple(Look(**look) for look in about["looks"])

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
                f"{', '.join(different)} differ; choose another folder"
            )

    def _about(self) -> dict[str, Any] | None:
        """What is known of the last save, or None if there is none."""
        if self._manager.latest_step() is None:
            return None
        about = self._read(_ABOUT, ocp.args.JsonRestore())
        names = {"identity", "batches", "token_budget", "complete", "digest"}
        if not isinstance(about, dict) or not names <= about.keys():
            raise self._damaged("it was written by another version of kis_jax")
        return {"pending": 0, "spread": None, "looks": [], **about}

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


def _this_process_alone() -> ocp.options.MultiprocessingOptions:
    """Orbax would have all hosts meet at every save; each store is one process's own."""
    if jax.process_count() == 1:
        return ocp.options.MultiprocessingOptions()
    index = jax.process_index()
    return ocp.options.MultiprocessingOptions(
        primary_host=index, active_processes={index}, barrier_sync_key_prefix=f"process_{index}"
    )


def _digest(*parts: SecondMoment) -> str:
    """SHA-256 of the numbers themselves."""
    digest = hashlib.sha256()
    for moments in parts:
        digest.update(np.ascontiguousarray(moments.total).data)
        digest.update(np.ascontiguousarray(moments.count).data)
    return digest.hexdigest()
