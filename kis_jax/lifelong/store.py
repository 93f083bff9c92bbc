"""What a lifelong run has done so far, on disk: one whole file for each step of its way."""

from __future__ import annotations

import dataclasses
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kis_jax.checkpoints.files import room_for, write_atomically
from kis_jax.passes.saves import check_same_run

_ABOUT = "about"


@dataclasses.dataclass(frozen=True)
class Saved:
    """Arrays, and plain JSON values that belong to them.

    Attributes:
      arrays: by their names.
      about: plain JSON values.
    """

    arrays: Mapping[str, np.ndarray]
    about: dict[str, Any]


class LifelongStore:
    """A folder of saved states under names, with the identity of the run that they belong to.

    A state is one `.npz` file, replaced as a whole: a process may be killed at any moment, and
    the next one finds the state before or the state after.
    """

    def __init__(self, directory: Path, identity: Mapping[str, object]) -> None:
        """Opens the folder, making it if need be.

        Args:
          directory: of the store.
          identity: what tells the run from another; plain JSON values.

        Raises:
          ValueError: if the folder holds the states of another run, naming in what they differ.
        """
        self.directory = directory
        self._identity = json.loads(json.dumps(identity))
        directory.mkdir(parents=True, exist_ok=True)
        for leftover in directory.glob(".*.partial*"):
            leftover.unlink()
        path = directory / "identity.json"
        if not path.exists():
            with write_atomically(path) as temporary:
                temporary.write_text(json.dumps(self._identity, indent=1), encoding="utf-8")
            return
        try:
            found = dict(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError):
            raise self._damaged(path, "it is not the JSON that was written") from None
        whole = dict.fromkeys(found) | self._identity
        check_same_run(directory, whole, found, of="the states of this run, found those")

    def save(self, name: str, saved: Saved) -> None:
        """Saves a state in place of the one of that name.

        Raises:
          ValueError: if there is no room for it; what was saved before is whole.
        """
        text = np.array(json.dumps(saved.about, allow_nan=False))
        arrays = {**saved.arrays, _ABOUT: text}
        size = sum(array.nbytes for array in arrays.values())
        path = self.directory / f"{name}.npz"
        with room_for(self.directory, size), write_atomically(path) as temporary:
            np.savez(temporary, allow_pickle=False, **arrays)

    def load(self, name: str) -> Saved | None:
        """The state of a name, or None if there is none.

        Raises:
          ValueError: if its file is damaged.
        """
        path = self.directory / f"{name}.npz"
        if not path.exists():
            return None
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as found:
                arrays = {key: found[key] for key in found.files}
            about = json.loads(str(arrays.pop(_ABOUT)))
        except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
            raise self._damaged(path, str(error)) from error
        return Saved(arrays, about)

    def _damaged(self, path: Path, reason: str) -> ValueError:
        return ValueError(
            f"{path}: expected a state as kis lifelong saved it, found that {reason}; delete this "
            "file, and the run goes on without it"
        )
