"""Second moments of many hosts on disk: each saves its rows, any number of hosts reads them."""

from __future__ import annotations

import dataclasses
import itertools
import json
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from kis_jax.checkpoints.files import room_for, write_atomically
from kis_jax.core.geometry.second_moment import SecondMoment
from kis_jax.passes.convergence import Look, Spread
from kis_jax.passes.hosts.distributed import each, from_first, share
from kis_jax.passes.saves import Saved, check_same_run

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
            "spread": None if saved.spread is None else saved.spread.as_json(),
            "looks": [dataclasses.asdict(look) for look in saved.looks],
            "rows": _ranges(self._rows),
        }
        self._run.mkdir(parents=True, exist_ok=True)
        path = self._run / f"{jax.process_index():05d}_{'ab'[self._next]}.npz"
        size = np.asarray(saved.moments.total).nbytes
        with (
            room_for(self._run, size),
            write_atomically(path) as temporary,
            temporary.open("wb") as file,
        ):
            np.savez(
                file,
                about=np.frombuffer(json.dumps(about).encode(), np.uint8),
                total=saved.moments.total,
                count=saved.moments.count,
            )
        self._next = 1 - self._next

    def restore(self) -> Saved | None:
        """This host's rows of the last save that is whole, of all hosts that made it. A collective.

        Raises:
          ValueError: on every host, if the folder holds those of another run, or damaged ones
            alone.
        """
        found, damaged = from_first(self._saves_of_all)
        for save in found:
            files = [Path(file) for file in save]
            if broken := [fault for fault in share(self._fault(files)) if fault is not None]:
                damaged = damaged or broken[0]
                continue
            if files[0].parent.name == self._run.name:  # the next save spares what is read now
                self._next = 1 - "ab".index(files[jax.process_index()].stem[-1])
            return each(lambda files=files: self._read(files))
        if damaged is not None:
            raise ValueError(damaged)
        return None

    def _fault(self, files: list[Path]) -> str | None:
        """What is wrong with this host's share of the files, by the checksums of their arrays."""
        for path in files[jax.process_index() :: jax.process_count()]:
            try:
                with zipfile.ZipFile(path) as file:
                    if (name := file.testzip()) is not None:
                        return str(_damaged(path, f"the checksum of {name} differs"))
            except (OSError, zipfile.BadZipFile) as error:
                return str(_damaged(path, error))
        return None

    def remove(self) -> None:
        """Removes the files of all hosts, once all is saved elsewhere; process 0 calls it."""
        for run in self._directory.glob(f"{_PREFIX}*"):
            shutil.rmtree(run, ignore_errors=True)

    def _saves_of_all(self) -> tuple[list[list[str]], str | None]:
        """Files, one a host, of each save that all hosts of some run have made, the longest first.

        And what is wrong with the first of the files that cannot be read, if any.
        """
        found: list[tuple[tuple[int, bool], list[str]]] = []
        damaged: str | None = None
        for run in sorted(self._directory.glob(f"{_PREFIX}*")):
            count = int(run.name.removeprefix(_PREFIX))
            saves: list[dict[tuple[int, bool], Path]] = [{} for _ in range(count)]
            for host, path in itertools.product(range(count), "ab"):
                path = run / f"{host:05d}_{path}.npz"
                if not path.exists():
                    continue
                try:
                    about = _load(path, "about")[0]
                except ValueError as error:
                    damaged = damaged or str(error)
                    continue
                check_same_run(self._directory, self._identity, about["identity"])
                saves[host][about["batches"], about["complete"]] = path
            for key in set.intersection(*map(set, saves)):
                found.append((key, [str(of_host[key]) for of_host in saves]))
        found.sort(key=lambda save: save[0], reverse=True)
        return [files for _, files in found], damaged

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
        spread = about.get("spread")  # of an earlier version neither this nor looks
        return Saved(
            moments,
            about["batches"],
            about["token_budget"],
            about["complete"],
            None if spread is None else Spread.from_json(spread),
            tuple(Look(**look) for look in about.get("looks", [])),
        )


def _load(path: Path, *names: str) -> list[Any]:
    """Arrays of a file; what is known about it as an object.

    Raises:
      ValueError: if the file is damaged, which its checksums show.
    """
    try:
        with path.open("rb") as file, np.load(file) as found:
            arrays = [found[name] for name in names]
            return [
                json.loads(a.tobytes()) if n == "about" else a
                for n, a in zip(names, arrays, strict=True)
            ]
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, reason: object) -> ValueError:
    return ValueError(
        f"{path}: expected second moments as kis_jax saved them, found them damaged ({reason}), "
        f"and no other save of all hosts that is whole; delete {path.parent} and run again"
    )


def _ranges(rows: np.ndarray) -> list[list[int]]:
    """Rising numbers as first and last, one beyond, of each run of neighbours."""
    if not len(rows):
        return []
    runs = np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1)
    return [[int(run[0]), int(run[-1]) + 1] for run in runs]
