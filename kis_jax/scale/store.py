"""Second moments on disk: saved while they are measured, reused only for the same run."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

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
        progress = {"token_budget": saved.token_budget, "complete": saved.complete}
        self._manager.save(
            saved.batches,
            args=ocp.args.Composite(
                **{
                    _STATE: ocp.args.StandardSave(state),
                    _ABOUT: ocp.args.JsonSave({"identity": self.identity, **progress}),
                }
            ),
        )

    def restore(self) -> Saved | None:
        """What was saved last, or None."""
        batches = self._manager.latest_step()
        if batches is None:
            return None
        found = self._manager.restore(
            batches,
            args=ocp.args.Composite(
                **{_STATE: ocp.args.StandardRestore(), _ABOUT: ocp.args.JsonRestore()}
            ),
        )
        state, about = found[_STATE], found[_ABOUT]
        return Saved(
            SecondMoment(state["total"], state["count"]),
            batches,
            about["token_budget"],
            about["complete"],
        )

    def _check_identity(self) -> None:
        batches = self._manager.latest_step()
        if batches is None:
            return
        found = self._manager.restore(
            batches, args=ocp.args.Composite(**{_ABOUT: ocp.args.JsonRestore()})
        )[_ABOUT]["identity"]
        different = sorted(name for name in self.identity if found.get(name) != self.identity[name])
        if different:
            self._manager.close()
            raise ValueError(
                f"{self.directory}: expected second moments of this run, found those of another: "
                f"{', '.join(different)} differ; choose another output folder, or delete this one"
            )
