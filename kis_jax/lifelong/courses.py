"""The course of one method: from the first fact to the last, to be left and taken up again."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
from jax import Array

from kis_jax.core.arrays.precision import HOST
from kis_jax.core.editing.editor import Editor
from kis_jax.core.editing.filters import Filter
from kis_jax.core.editing.rising import Rising, rising_add
from kis_jax.core.editing.rules import Rule
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
    """One method on its way through the facts.

    Attributes:
      kernel: as the edits so far left it, `(d, m)` float64.
      left_out: facts so far that could not be edited, by their place, and why.
    """

    def __init__(self, kernel: np.ndarray) -> None:
        """Starts from a kernel `(d, m)`, without edits."""
        self.kernel = np.asarray(kernel, np.float64)
        self.left_out: dict[int, str] = {}

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
        self,
        editor: Editor,
        find: FindTargets,
        *,
        batch: int | None,
        refusal: str = REPEATED,
        rising: Rising | None = None,
    ) -> None:
        """Starts without edits.

        Args:
          editor: of the method, with room for all facts and no edits yet.
          find: target values.
          batch: facts whose target values are found on one kernel, and that are edited together;
            None for all up to the next checkpoint.
          refusal: what to say of a fact that the editor does not accept.
          rising: of a method whose weight rises.
        """
        super().__init__(np.asarray(editor.kernel))
        d, m = self.kernel.shape
        self._editor = editor
        self._find = find
        self._batch = batch
        self._rising = rising
        self._refusal = refusal
        self.keys = np.zeros((0, d))
        self.values = np.zeros((0, m))
        self.bounds = [0]

    @property
    def rule(self) -> Rule:
        """As it is now: of some methods its weight rises."""
        return self._editor.rule

    @property
    def filters(self) -> tuple[Filter, ...]:
        """Of what is written."""
        return self._editor.filters

    @property
    def blocks(self) -> list[int]:
        """Where blocks end, of the facts of `asked`."""
        made = ~np.isin(np.arange(len(self.keys)), list(self.left_out))
        return [int(made[:bound].sum()) for bound in self.bounds]

    @property
    def asked(self) -> tuple[np.ndarray, np.ndarray]:
        """Keys and the values asked for of the facts that were edited, float64."""
        made = ~np.isin(np.arange(len(self.keys)), list(self.left_out))
        return self.keys[made], self.values[made]

    def advance(self, facts: slice) -> None:
        """See `Course.advance`."""
        step = self._batch or facts.stop - facts.start
        for start in range(facts.start, facts.stop, step):
            piece = slice(start, min(start + step, facts.stop))
            wanted = self._find(piece, self.kernel)
            self.left_out |= {
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
        self.left_out = dict(left_out)
        bounds = state["bounds"].tolist()
        for start, stop in zip(bounds, bounds[1:], strict=False):
            self._add(state["keys"][start:stop], state["values"][start:stop])

    def _add(self, keys: np.ndarray, values: np.ndarray) -> None:
        start, stop = len(self.keys), len(self.keys) + len(keys)
        if self._rising is None:
            self._editor, added = HOST.run(Editor.add, self._editor, keys, values)
            self.kernel = self.kernel + HOST.run(_written, self._editor, start, stop)
        else:  # all of it is solved for again
            given = self._editor, self._rising, keys, values
            self._editor, self._rising, added = HOST.run(rising_add, *given)
            whole = HOST.run(_written, self._editor, 0, len(self._editor.along))
            self.kernel = np.asarray(self._editor.kernel) + whole
        for row in np.flatnonzero(~added.accepted):
            self.left_out.setdefault(start + int(row), self._refusal)
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
        super().__init__(kernel)
        self._tune = tune

    def advance(self, facts: slice) -> None:
        """See `Course.advance`; a block in which the loss is not finite is left out."""
        try:
            self.kernel = np.asarray(self._tune(facts, self.kernel), np.float64)
        except NotFiniteError as error:
            self.left_out |= dict.fromkeys(range(facts.start, facts.stop), str(error))

    def state(self) -> dict[str, np.ndarray]:
        """See `Course.state`."""
        return {"kernel": self.kernel}

    def restore(self, state: Mapping[str, np.ndarray], left_out: Mapping[int, str]) -> None:
        """See `Course.restore`."""
        self.kernel, self.left_out = state["kernel"], dict(left_out)
