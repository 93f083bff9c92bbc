"""Fine-tuning on disk: saved after each epoch, taken up by the same run alone."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import jax
import orbax.checkpoint as ocp

from kis_jax.checkpoints.files import room_for
from kis_jax.passes.saves import check_same_run

_ARRAYS, _ABOUT = "arrays", "about"


class Saved(NamedTuple):
    """A run after some epochs.

    Attributes:
      arrays: a tree of arrays.
      about: plain JSON values.
    """

    arrays: Any
    about: dict[str, Any]


class TrainingStore:
    """A folder of the last epoch of a run, with the identity of that run.

    Each save is one orbax checkpoint, whole or absent; the one before it is then deleted.
    """

    def __init__(self, directory: Path, identity: Mapping[str, object]) -> None:
        """Opens the store, making the directory if need be.

        Args:
          directory: of the store.
          identity: what tells the run from another; plain JSON values.

        Raises:
          ValueError: if the directory holds another run, naming in what they differ.
        """
        self.directory = directory
        self._identity = json.loads(json.dumps(identity))
        self._manager = ocp.CheckpointManager(
            directory.absolute(),
            options=ocp.CheckpointManagerOptions(max_to_keep=1, enable_async_checkpointing=False),
        )
        if (epochs := self._manager.latest_step()) is not None:
            found = self._read(epochs, _ABOUT, ocp.args.JsonRestore())["identity"]
            whole = dict.fromkeys(found) | self._identity
            with contextlib.ExitStack() as stack:
                stack.callback(self._manager.close)
                check_same_run(directory, whole, found, of="the progress of this run, found that")
                stack.pop_all()

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

    def save(self, epochs: int, saved: Saved) -> None:
        """Saves a run in place of what was saved before.

        Args:
          epochs: how many have passed, more than at the save before.
          saved: to be saved.

        Raises:
          ValueError: if there is no room for it; what was saved before is whole.
        """
        # Names instead of an optimizer's own containers, whose classes may change.
        leaves = {str(place): leaf for place, leaf in enumerate(jax.tree.leaves(saved.arrays))}
        about = {"identity": self._identity, **saved.about}
        given = {_ARRAYS: ocp.args.StandardSave(leaves), _ABOUT: ocp.args.JsonSave(about)}
        with room_for(self.directory, sum(leaf.nbytes for leaf in leaves.values())):
            self._manager.save(epochs, args=ocp.args.Composite(**given))

    def restore(self, like: Any) -> Saved | None:
        """What was saved last, its arrays in the structure and on the devices of `like`; or None.

        Raises:
          ValueError: if the files are damaged.
        """
        epochs = self._manager.latest_step()
        if epochs is None:
            return None
        about = self._read(epochs, _ABOUT, ocp.args.JsonRestore())
        leaves, structure = jax.tree.flatten(like)
        wanted = {
            str(place): jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
            for place, leaf in enumerate(leaves)
        }
        found = self._read(epochs, _ARRAYS, ocp.args.StandardRestore(wanted))
        arrays = jax.tree.unflatten(structure, [found[name] for name in wanted])
        return Saved(arrays, {name: about[name] for name in about if name != "identity"})

    def _read(self, epochs: int, item: str, how: Any) -> Any:
        try:
            return self._manager.restore(epochs, args=ocp.args.Composite(**{item: how}))[item]
        except Exception as error:  # orbax, tensorstore, json and the system raise many kinds
            self._manager.close()
            raise ValueError(
                f"{self.directory}: expected progress as kis mcqa train saved it, found "
                f"{type(error).__name__} while reading its {item}; delete this folder and run again"
            ) from error
