"""The course of one method: from the first fact to the last, to be left and taken up again."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
from jax import Array

from kis_jax.core.arrays.precision import HOST
from kis_jax.core.editing.editor import Editor
from kis_jax.passes.not_finite import NotFiniteError

REPEATED = "its key repeats those of earlier facts, so that no value of its own can be given it"


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What some facts ask of the layer.

    Attributes:
      keys: `(b, d)`; NaN for a fact without a target value.
      values: `(b, m)`, what keys @ kernel should be.
      failures: why a fact has no target value; None if it has.
    """

    keys: np.ndarray
    values: np.ndarray
    failures: tuple[str | None, ...]


FindTargets = Callable[[slice, np.ndarray], Wanted]
"""Of facts in a row, and the kernel as it is, `(d, m)`: what they ask."""


class Course(abc.ABC):
    """One method on its way through the facts."""

    @property
    @abc.abstractmethod
    def kernel(self) -> np.ndarray:
        """The kernel as the edits so far left it, `(d, m)` float64."""

    @property
    @abc.abstractmethod
    def left_out(self) -> dict[int, str]:
        """Facts so far that could not be edited, by their place, and why."""

    @abc.abstractmethod
    def advance(self, facts: slice) -> None:
        """Edits the next facts."""

    @abc.abstractmethod
    def state(self) -> dict[str, np.ndarray]:
        """All that it takes to go on from here."""

    @abc.abstractmethod
    def restore(self, state: Mapping[str, np.ndarray], left_out: Mapping[int, str]) -> None:
        """Goes to where a course had this state: the same bits as if it had gone there itself."""


class ClosedFormCourse(Course):
    """A method in closed form: an `Editor`, and the kernel as its edits left it.

    Attributes:
      keys: of the facts so far, `(t, d)`.
      values: asked for, `(t, m)`.
      bounds: where one piece that was added ends and the next begins, from 0 to t.
    """

    def __init__(
        self, editor: Editor, find: FindTargets, *, singly: bool, refusal: str = REPEATED
    ) -> None:
        """Starts without edits.

        Args:
          editor: of the method, with room for all facts and no edits yet.
          find: target values.
          singly: whether each fact's are found on the kernel that the one before it has left.
          refusal: what to say of a fact that the editor does not accept.
        """
        d, m = editor.kernel.shape
        self._editor = editor
        self._kernel = np.asarray(editor.kernel)
        self._find = find
        self._singly = singly
        self._refusal = refusal
        self._left_out: dict[int, str] = {}
        self.keys = np.zeros((0, d))
        self.values = np.zeros((0, m))
        self.bounds = [0]

    @property
    def kernel(self) -> np.ndarray:
        """See `Course.kernel`."""
        return self._kernel

    @property
    def left_out(self) -> dict[int, str]:
        """See `Course.left_out`."""
        return self._left_out

    @property
    def asked(self) -> tuple[np.ndarray, np.ndarray]:
        """Keys and the values asked for of the facts that were edited, float64."""
        made = ~np.isin(np.arange(len(self.keys)), list(self._left_out))
        return self.keys[made], self.values[made]

    def advance(self, facts: slice) -> None:
        """See `Course.advance`."""
        step = 1 if self._singly else facts.stop - facts.start
        for start in range(facts.start, facts.stop, step):
            piece = slice(start, start + step)
            wanted = self._find(piece, self.kernel)
            self._left_out |= {
                start + row: reason
                for row, reason in enumerate(wanted.failures)
                if reason is not None
            }
            self._add(wanted.keys, wanted.values)

    def state(self) -> dict[str, np.ndarray]:
        """See `Course.state`."""
        return {"keys": self.keys, "values": self.values, "bounds": np.array(self.bounds)}

    def restore(self, state: Mapping[str, np.ndarray], left_out: Mapping[int, str]) -> None:
        """See `Course.restore`; closed forms are quick, so the edits are made again."""
        self._left_out = dict(left_out)
        bounds = state["bounds"].tolist()
        for start, stop in zip(bounds, bounds[1:], strict=False):
            self._add(state["keys"][start:stop], state["values"][start:stop])

    def _add(self, keys: np.ndarray, values: np.ndarray) -> None:
        start, stop = len(self.keys), len(self.keys) + len(keys)
        self._editor, added = HOST.run(Editor.add, self._editor, keys, values)
        self._kernel = self._kernel + HOST.run(_written, self._editor, start, stop)
        for row in np.flatnonzero(~added.accepted):
            self._left_out.setdefault(start + int(row), self._refusal)
        self.keys = np.concatenate([self.keys, np.asarray(keys, np.float64)])
        self.values = np.concatenate([self.values, np.asarray(values, np.float64)])
        self.bounds.append(stop)


def _written(editor: Editor, start: int, stop: int) -> Array:
    return editor.part(start, stop).delta


class GradientCourse(Course):
    """Fine-tuning of the one kernel, a block of facts at a time."""

    def __init__(self, kernel: np.ndarray, tune: Callable[[slice, np.ndarray], np.ndarray]) -> None:
        """Starts without edits.

        Args:
          kernel: `(d, m)`.
          tune: of facts in a row and a kernel: the kernel tuned on them.
        """
        self._kernel = np.asarray(kernel, np.float64)
        self._tune = tune
        self._left_out: dict[int, str] = {}

    @property
    def kernel(self) -> np.ndarray:
        """See `Course.kernel`."""
        return self._kernel

    @property
    def left_out(self) -> dict[int, str]:
        """See `Course.left_out`: the facts of a block in which the loss was not finite."""
        return self._left_out

    def advance(self, facts: slice) -> None:
        """See `Course.advance`."""
        try:
            self._kernel = np.asarray(self._tune(facts, self._kernel), np.float64)
        except NotFiniteError as error:
            self._left_out |= dict.fromkeys(range(facts.start, facts.stop), str(error))

    def state(self) -> dict[str, np.ndarray]:
        """See `Course.state`."""
        return {"kernel": self._kernel}

    def restore(self, state: Mapping[str, np.ndarray], left_out: Mapping[int, str]) -> None:
        """See `Course.restore`."""
        self._kernel, self._left_out = state["kernel"], dict(left_out)
