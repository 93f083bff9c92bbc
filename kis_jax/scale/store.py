"""Second moments on disk: saved while they are measured, reused only for the same run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import orbax.checkpoint as ocp

from kis_jax.core.second_moment import SecondMoment

_STATE, _IDENTITY = "second_moments", "identity"


class SecondMomentStore:
    """A directory of second moments with the identity of the run that measures them.

    The identity (fingerprints of model, tokenizer and corpus, and the settings that decide which
    tokens share a batch) is saved with the sums: those of another run are refused, not reused.
    Each save is one orbax checkpoint, numbered by the batches that it contains and complete or
    absent; the one before it is then deleted.
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

    def save(self, moments: SecondMoment, *, batches: int, complete: bool) -> None:
        """Saves the second moments over the first batches of the corpus.

        Args:
          moments: stacked over layers, NumPy float64.
          batches: how many batches they contain.
          complete: whether these are all.
        """
        state = {"total": moments.total, "count": moments.count}
        self._manager.save(
            batches,
            args=ocp.args.Composite(
                **{
                    _STATE: ocp.args.StandardSave(state),
                    _IDENTITY: ocp.args.JsonSave({**self.identity, "complete": complete}),
                }
            ),
        )

    def restore(self) -> tuple[SecondMoment, int, bool] | None:
        """The saved second moments, the batches in them, and whether these are all; or None."""
        batches = self._manager.latest_step()
        if batches is None:
            return None
        found = self._manager.restore(
            batches,
            args=ocp.args.Composite(
                **{_STATE: ocp.args.StandardRestore(), _IDENTITY: ocp.args.JsonRestore()}
            ),
        )
        state = found[_STATE]
        return SecondMoment(state["total"], state["count"]), batches, found[_IDENTITY]["complete"]

    def _check_identity(self) -> None:
        batches = self._manager.latest_step()
        if batches is None:
            return
        found = self._manager.restore(
            batches, args=ocp.args.Composite(**{_IDENTITY: ocp.args.JsonRestore()})
        )[_IDENTITY]
        different = sorted(name for name in self.identity if found.get(name) != self.identity[name])
        if different:
            self._manager.close()
            raise ValueError(
                f"{self.directory}: expected second moments of this run, found those of another: "
                f"{', '.join(different)} differ; choose another output folder, or delete this one"
            )
