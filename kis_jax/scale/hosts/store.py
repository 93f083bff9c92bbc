"""Second moments of many hosts on disk: each saves its rows, any number of hosts reads them."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from kis_jax.checkpoints.files import write_atomically
from kis_jax.core.second_moment import SecondMoment
from kis_jax.scale.hosts.distributed import each, from_first
from kis_jax.scale.store import Saved

_PREFIX = "hosts_"


class HostStore:
    """Files of all hosts of a run, in a folder that all of them see.

    Each host writes its own file, with no word to the others; and two of them in turn, so that a
    save which a dying host missed leaves the one before it whole: what is read is the last that
    all hosts made.
    """

    def __init__(
        self, directory: Path, identity: Mapping[str, object], rows: np.ndarray, width: int
    ) -> None:
        """Names the files; nothing is opened yet.

        Args:
          directory: of the second moments.
          identity: of the run, plain JSON values.
          rows: that this host has.
          width: d, of all rows together.
        """
        self._directory = directory
        self._identity = json.loads(json.dumps(identity))
        self._rows, self._width = rows, width
        self._run = directory / f"{_PREFIX}{jax.process_count():05d}"
        self._next = 0

    def save(self, saved: Saved) -> None:
        """Saves this host's rows; every host must, after the same batches."""
        about = {
            "identity": self._identity,
            "batches": saved.batches,
            "token_budget": saved.token_budget,
            "complete": saved.complete,
            "rows": _ranges(self._rows),
        }
        self._run.mkdir(parents=True, exist_ok=True)
        path = self._run / f"{jax.process_index():05d}_{'ab'[self._next]}.npz"
        with write_atomically(path) as temporary, temporary.open("wb") as file:
            np.savez(
                file,
                about=np.frombuffer(json.dumps(about).encode(), np.uint8),
                total=saved.moments.total,
                count=saved.moments.count,
            )
        self._next = 1 - self._next

    def restore(self) -> Saved | None:
        """This host's rows of what all hosts saved last, however many they were. A collective.

        Raises:
          ValueError: on every host, if the folder holds those of another run, or damaged ones.
        """
        found = from_first(self._last_of_all)
        if found is None:
            return None
        files = [Path(file) for file in found]
        if files[0].parent.name == self._run.name:  # the next save spares what is read now
            self._next = 1 - "ab".index(files[jax.process_index()].stem[-1])
        return each(lambda: self._read(files))

    def remove(self) -> None:
        """Removes the files of all hosts, once all is saved elsewhere; process 0 calls it."""
        for run in self._directory.glob(f"{_PREFIX}*"):
            shutil.rmtree(run, ignore_errors=True)

    def _last_of_all(self) -> list[str] | None:
        """Files, one a host, of the longest pass that all hosts of some run have saved."""
        best: tuple[tuple[int, bool], list[str]] | None = None
        for run in sorted(self._directory.glob(f"{_PREFIX}*")):
            count = int(run.name.removeprefix(_PREFIX))
            saves = [self._saves_of(run, host) for host in range(count)]
            for key in set.intersection(*(set(of_host) for of_host in saves)):
                if best is None or key > best[0]:
                    best = key, [str(of_host[key]) for of_host in saves]
        return None if best is None else best[1]

    def _saves_of(self, run: Path, host: int) -> dict[tuple[int, bool], Path]:
        """The files of a host by how many batches they hold, and whether these are all."""
        found = {}
        for path in run.glob(f"{host:05d}_[ab].npz"):
            about = _load(path, "about")[0]
            self._check_identity(about["identity"])
            found[about["batches"], about["complete"]] = path
        return found

    def _check_identity(self, found: Mapping[str, object]) -> None:
        different = sorted(
            name for name in self._identity if found.get(name) != self._identity[name]
        )
        if different:
            raise ValueError(
                f"{self._directory}: expected second moments of this run, found those of another: "
                f"{', '.join(different)} differ; choose another folder"
            )

    def _read(self, files: list[Path]) -> Saved:
        """This host's rows, from the files of those that had them."""
        place = np.full(self._width, -1)
        place[self._rows] = np.arange(len(self._rows))
        total, count, about = None, None, {}
        for path in files:
            (about,) = _load(path, "about")
            rows = np.array([row for ends in about["rows"] for row in range(*ends)], int)
            mine = place[rows] >= 0
            if total is None or mine.any():
                part, count = _load(path, "total", "count")
                if total is None:
                    total = np.zeros((len(part), len(self._rows), self._width))
                total[:, place[rows[mine]]] = part[:, mine]
        moments = SecondMoment(total, count)  # pyright: ignore[reportArgumentType]
        return Saved(moments, about["batches"], about["token_budget"], about["complete"])


def _load(path: Path, *names: str) -> list[Any]:
    """Arrays of a file; what is known about it as an object.

    Raises:
      ValueError: if the file is damaged, which its checksums show.
    """
    try:
        with np.load(path) as file:
            arrays = [file[name] for name in names]
            return [
                json.loads(a.tobytes()) if n == "about" else a
                for n, a in zip(names, arrays, strict=True)
            ]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{path}: expected second moments as kis_jax saved them, found them damaged ({error}); "
            f"delete {path.parent} and run again"
        ) from error


def _ranges(rows: np.ndarray) -> list[list[int]]:
    """Rising numbers as first and last, one beyond, of each run of neighbours."""
    if not len(rows):
        return []
    runs = np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1)
    return [[int(run[0]), int(run[-1]) + 1] for run in runs]
