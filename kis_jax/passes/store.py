"""Second moments on disk: saved while they are measured, reused only for the same run."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kis_jax.checkpoints.files import room_for, write_atomically
from kis_jax.core.arrays.packed import packed_size, row_blocks
from kis_jax.core.geometry.second_moment import SecondMoment
from kis_jax.passes.convergence import Look, Spread
from kis_jax.passes.saves import Saved, check_same_run

ABOUT = "layers.json"
_FORMAT = 1
_NAMES = {"format", "identity", "settings", "width", "complete", "looks", "layers"}
_MOMENTS = re.compile(r"\d+(\..*)?|layers\.json|layer_\d+\..*|hosts_\d+|\..*")


def store_of(folder: Path) -> Path:
    """Where second moments lie, or may: in a folder of their own, or in that of a scan.

    Raises:
      ValueError: if the folder holds anything else, which they are not to be mixed with.
    """
    if (folder / "second_moments").is_dir():
        return folder / "second_moments"
    others = [path.name for path in folder.glob("*") if not _MOMENTS.fullmatch(path.name)]
    if others:
        raise ValueError(
            f"second_moments: expected a folder of second moments or of a scan, or a new one, "
            f"found none but other files in {folder}, such as {min(others)}; name another folder"
        )
    return folder


@dataclasses.dataclass(frozen=True)
class LayerState:
    """The sum of one layer, as it lies on disk.

    Attributes:
      batches: how many batches it contains.
      count: of tokens.
      file: its name; None as long as nothing is in it.
      digest: SHA-256 of the file.
      norm: Frobenius norm of the sum.
      parts: how many parts it was summed from; with `squares`, their `Spread`.
      squares: see there.
    """

    batches: int = 0
    count: int = 0
    file: str | None = None
    digest: str | None = None
    norm: float = 0.0
    parts: int = 0
    squares: float = 0.0


class MomentStore:
    """A directory with the packed second moment of each layer, and the identity of their run.

    The identity (fingerprints of model, tokenizer and corpus, and settings) is saved with the sums:
    those of another run are refused, not reused. New sums are written beside the old ones, then
    `layers.json`, which names them: a process may be killed at any moment, and the next one finds
    the sums before or the sums after. A pass that holds all layers saves them at one place in the
    corpus; a streamed one adds to each layer at its own, and memory holds one block of rows.

    A file holds the blocks of `kis_jax.core.arrays.packed.row_blocks` one after another, row by
    row, as little-endian float64 with no header.
    """

    def __init__(
        self,
        directory: Path,
        identity: Mapping[str, object],
        *,
        num_layers: int = 0,
        width: int = 0,
        settings: Mapping[str, object] | None = None,
    ) -> None:
        """Opens the store; a folder that is not there is made by the first save.

        Args:
          directory: of the store.
          identity: plain JSON values; what the store has besides is not looked at.
          num_layers: of the model, for a new store that is added to.
          width: of its keys, d; likewise.
          settings: of the pass; those of an existing store are kept in their place.

        Raises:
          ValueError: if the directory holds the second moments of another run, naming in what
            they differ, or is damaged.
        """
        if directory.exists() and not directory.is_dir():
            raise ValueError(f"{directory}: expected a folder, found a file; delete or rename it")
        self.directory = directory
        self._about: dict[str, Any] = {
            "format": _FORMAT,
            "identity": json.loads(json.dumps(identity)),
            "settings": dict(settings or {}),
            "width": width,
            "complete": False,
            "looks": [],
            "layers": [dataclasses.asdict(LayerState())] * num_layers,
        }
        self._cleared = False
        path = directory / ABOUT
        if path.exists():
            self._about = self._read_about(path)
            check_same_run(directory, identity, self._about["identity"])
        elif any(path.name.isdigit() for path in directory.glob("*")):
            from kis_jax.passes.earlier_store import take_over  # needs orbax, which is slow to load

            take_over(self)
            check_same_run(directory, identity, self._about["identity"])

    @property
    def width(self) -> int:
        """Of keys, d."""
        return self._about["width"]

    @property
    def settings(self) -> dict[str, Any]:
        """Of the pass that began the store; one that goes on must keep to them."""
        return self._about["settings"]

    @property
    def complete(self) -> bool:
        """Whether the pass came to its end."""
        return self._about["complete"]

    @property
    def layers(self) -> tuple[LayerState, ...]:
        """What there is of each layer."""
        return tuple(LayerState(**layer) for layer in self._about["layers"])

    def saved_identity(self) -> dict[str, Any]:
        """The whole identity of the run that saved last, or of this one if none has."""
        return self._about["identity"]

    @property
    def spread(self) -> Spread:
        """Of the parts of which the sums are made."""
        states = self.layers
        squares = np.array([state.squares for state in states])
        return Spread(min(state.parts for state in states), squares)

    @property
    def looks(self) -> tuple[Look, ...]:
        """At the convergence of the sums, as they were noted."""
        return tuple(Look(**look) for look in self._about["looks"])

    def add(
        self,
        layer: int,
        rows: Sequence[np.ndarray],
        count: int,
        batches: int,
        spread: Spread | None = None,
    ) -> None:
        """Adds to the sum of one layer, and remembers its new place in the corpus.

        Args:
          layer: its index.
          rows: of a `PackedMoment`, in any dtype.
          count: of tokens.
          batches: how many batches the sum then contains.
          spread: of one layer, where the rows are themselves a sum of parts; if None, they are one.

        Raises:
          ValueError: if a number is not finite, or the file on disk is damaged.
        """
        state = self.layers[layer]
        # A key that is not finite shows on the diagonal, the sums of squares.
        if not all(np.isfinite(np.diagonal(block)).all() for block in rows):
            raise ValueError(
                f"second moments: expected finite numbers, found NaN or infinity in layer {layer}; "
                "check the checkpoint, and try float32 if it ran in bfloat16"
            )
        if spread is None:
            norm = math.sqrt(sum(map(_square, rows)))
            spread = Spread.zeros(1).add(np.array([norm]), count)
        self._clear()
        with room_for(self.directory, 8 * packed_size(self.width)):
            blocks = (
                np.add(block, old) for block, old in zip(rows, self._blocks(layer), strict=True)
            )
            written = self._write(layer, blocks, batches)
        written = dataclasses.replace(
            written,
            count=state.count + count,
            parts=state.parts + spread.parts,
            squares=state.squares + float(spread.squares[0]),
        )
        self._about["layers"][layer] = dataclasses.asdict(written)
        self._write_about()
        self._remove({state.file})

    def save(
        self,
        saved: Saved,
        totals: Iterable[np.ndarray] | None = None,
        *,
        identity: Mapping[str, object] | None = None,
    ) -> None:
        """Saves second moments of all layers in place of those saved before.

        Args:
          saved: of whole sums.
          totals: their sums, one layer after another, if not those of `saved.moments`.
          identity: of the run, if not that of the store.

        Raises:
          ValueError: if there is no room for them.
        """
        d = saved.moments.total.shape[-1]
        spread = saved.spread or Spread.zeros(len(saved.moments.count))
        old, states = {state.file for state in self.layers}, []
        self._clear()
        with room_for(self.directory, 8 * packed_size(d) * len(saved.moments.count)):
            for layer, total in enumerate(saved.moments.total if totals is None else totals):
                state = dataclasses.replace(
                    self._write(layer, packed_rows(total), saved.batches),
                    count=int(saved.moments.count[layer]),
                    parts=spread.parts,
                    squares=float(spread.squares[layer]),
                )
                states.append(dataclasses.asdict(state))
        self._about |= {
            "settings": {**self.settings, "token_budget": saved.token_budget},
            "width": d,
            "complete": saved.complete,
            "looks": [dataclasses.asdict(look) for look in saved.looks],
            "layers": states,
        }
        if identity is not None:
            self._about["identity"] = json.loads(json.dumps(identity))
        self._write_about()
        self._remove(old)

    def _write(self, layer: int, blocks: Iterable[np.ndarray], batches: int) -> LayerState:
        """Writes the blocks of a layer's sum into a file that nothing names yet."""
        name = f"layer_{layer:03d}.{batches}.f64"
        digest, square = hashlib.sha256(), 0.0
        with (
            write_atomically(self.directory / name) as temporary,
            temporary.open("wb") as file,
        ):
            for block in blocks:
                block = np.ascontiguousarray(block, "<f8")
                digest.update(block.data)
                file.write(block.data)
                square += _square(block)
            file.flush()
            os.fsync(file.fileno())
        return LayerState(batches, file=name, digest=digest.hexdigest(), norm=math.sqrt(square))

    def _remove(self, files: set[str | None]) -> None:
        """Removes files that nothing names any more."""
        for name in files - {state.file for state in self.layers} - {None}:
            (self.directory / str(name)).unlink(missing_ok=True)

    def note(self, looks: Sequence[Look]) -> None:
        """Remembers looks at convergence in place of those before."""
        self._about["looks"] = [dataclasses.asdict(look) for look in looks]
        self._write_about()

    def finish(self) -> None:
        """Notes that the pass came to its end."""
        self._about["complete"] = True
        self._write_about()

    def read(self, layer: int) -> np.ndarray:
        """The sum of one layer, `(d, d)` float64; zeros if it has none.

        Raises:
          ValueError: if the file is damaged.
        """
        d = self.width
        total = np.zeros((d, d))
        for (start, stop), block in zip(row_blocks(d), self._blocks(layer), strict=True):
            total[start:stop, start:] = block
            total[start:, start:stop] = block.T
        return total

    def restore(self) -> Saved | None:
        """What there is, its sums read layer by layer as they are asked for; None if nothing is."""
        states = self.layers
        if not self.complete and not any(state.batches for state in states):
            return None
        count = np.array([state.count for state in states], np.int64)
        batches = min(state.batches for state in states)
        moments = SecondMoment(LayerTotals(self), count)  # pyright: ignore[reportArgumentType]
        budget = int(self.settings.get("token_budget", 0))
        return Saved(moments, batches, budget, self.complete, spread=self.spread, looks=self.looks)

    def _blocks(self, layer: int) -> Iterator[np.ndarray]:
        """The blocks of rows of a layer's sum, checked against its digest by the time they end."""
        state, d = self.layers[layer], self.width
        shapes = [(stop - start, d - start) for start, stop in row_blocks(d)]
        if state.file is None:
            yield from map(np.zeros, shapes)
            return
        digest = hashlib.sha256()
        path = self.directory / state.file
        try:
            if path.stat().st_size != 8 * packed_size(d):
                raise self.damaged(f"{state.file} of another size")
            with path.open("rb") as file:
                for shape in shapes:
                    block = np.fromfile(file, "<f8", shape[0] * shape[1]).reshape(shape)
                    digest.update(block.data)
                    if shape is shapes[-1] and digest.hexdigest() != state.digest:
                        raise self.damaged(f"{state.file} with other numbers than were saved")
                    yield block
        except OSError as error:
            raise self.damaged(f"{type(error).__name__} while reading {state.file}") from error

    def _read_about(self, path: Path) -> dict[str, Any]:
        try:
            about = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise self.damaged(f"{ABOUT} cannot be read ({error})") from error
        if not isinstance(about, dict) or about.keys() != _NAMES or about["format"] != _FORMAT:
            raise self.damaged(f"{ABOUT} was written by another version of kis_jax")
        return about

    def _write_about(self) -> None:
        self._clear()
        with write_atomically(self.directory / ABOUT) as temporary:
            temporary.write_text(json.dumps(self._about, indent=1) + "\n", encoding="utf-8")

    def _clear(self) -> None:
        """Removes what a killed process left, before the first write; makes the folder."""
        if self._cleared:
            return
        self._cleared = True
        self.directory.mkdir(parents=True, exist_ok=True)
        known = {state.file for state in self.layers}
        for path in (*self.directory.glob("layer_*.f64"), *self.directory.glob(".*.partial*")):
            if path.name not in known:
                with contextlib.suppress(FileNotFoundError):
                    path.unlink()

    def damaged(self, reason: str) -> ValueError:
        """The error that says so."""
        return ValueError(
            f"{self.directory}: expected second moments as kis_jax saved them, found that "
            f"{reason}; delete this folder and run again"
        )


def _square(block: np.ndarray) -> float:
    """What a block of rows of a triangle adds to the squared norm of the whole."""
    rest = block[:, len(block) :]
    total = np.sum(np.square(block), dtype=np.float64)
    return float(total + np.sum(np.square(rest), dtype=np.float64))


def packed_rows(total: np.ndarray) -> list[np.ndarray]:
    """The blocks of rows of a symmetric matrix `(d, d)`, as `MomentStore.add` takes them."""
    return [total[start:stop, start:] for start, stop in row_blocks(len(total))]


class LayerTotals:
    """Sums of all layers as an array `(layers, d, d)` of which indexing reads one from disk."""

    def __init__(self, store: MomentStore) -> None:
        """Reads nothing yet."""
        self._store = store
        self.shape = (len(store.layers), store.width, store.width)
        self.dtype = np.dtype(np.float64)

    def __len__(self) -> int:
        """Number of layers."""
        return self.shape[0]

    def __getitem__(self, layer: int) -> np.ndarray:
        """The sum of one layer, `(d, d)`."""
        return self._store.read(int(layer))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """All of them, as one array in memory."""
        del copy
        return np.stack([self[layer] for layer in range(len(self))]).astype(dtype or self.dtype)
