"""The course of a method that writes along normalised gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from kis_jax.core.arrays.precision import HOST
from kis_jax.core.editing.ledger import Edit
from kis_jax.core.editing.normalised import Normalised
from kis_jax.edit.gradients import BLOCK, WARM_UP, along, counted
from kis_jax.lifelong.courses import Course
from kis_jax.passes.not_finite import NotFiniteError
from kis_jax.passes.targets.gradients import Gradients
from kis_jax.passes.targets.settings import EditSettings

See = Callable[[slice, np.ndarray], Gradients]
"""Of facts in a row, and the kernel as it is, `(d, m)`: their gradients."""


class NormalisedCourse(Course):
    """UltraEdit or StableEdit in one layer."""

    def __init__(
        self,
        kernel: np.ndarray,
        state: Normalised,
        see: See,
        settings: EditSettings,
        *,
        layer: int,
        size: float,
        batch: int | None,
        num_facts: int,
    ) -> None:
        """Starts without edits.

        Args:
          kernel: `(d, m)`.
          state: without edits.
          see: gradients of facts on a kernel.
          settings: of the method.
          layer: that is edited.
          size: the length of what it typically writes.
          batch: facts whose gradients are taken on one kernel; None for `BLOCK`.
          num_facts: of the run, some of which StableEdit sees before it writes.
        """
        super().__init__(kernel)
        self._state, self._see, self._settings = state, see, settings
        self._layer, self._size, self._batch = layer, size, batch or BLOCK
        if state.whitened:
            for piece in self._pieces(slice(0, min(num_facts, WARM_UP * self._batch))):
                self._state = counted(self._state, see(piece, self.kernel), layer)

    def advance(self, facts: slice) -> None:
        """See `Course.advance`; a block whose gradients are not finite is left out."""
        for piece in self._pieces(facts):
            found = self._see(piece, self.kernel)
            try:
                self._add(found)
            except NotFiniteError as error:
                self.left_out |= dict.fromkeys(range(piece.start, piece.stop), str(error))

    def state(self) -> dict[str, np.ndarray]:
        """See `Course.state`."""
        leaves = jax.tree.leaves(self._state)
        return {"kernel": self.kernel} | {f"leaf_{n}": np.array(x) for n, x in enumerate(leaves)}

    def restore(self, state: Mapping[str, np.ndarray], left_out: Mapping[int, str]) -> None:
        """See `Course.restore`."""
        self.kernel, self.left_out = state["kernel"], dict(left_out)
        structure = jax.tree.structure(self._state)
        leaves: list[Any] = [state[f"leaf_{n}"] for n in range(structure.num_leaves)]
        self._state = jax.tree.unflatten(structure, leaves)

    def _pieces(self, facts: slice) -> list[slice]:
        starts = range(facts.start, facts.stop, self._batch)
        return [slice(start, min(start + self._batch, facts.stop)) for start in starts]

    def _add(self, found: Gradients) -> None:
        if not np.isfinite(found.gradients[self._layer]).all():
            raise NotFiniteError("the gradients of its block are not finite: the model is broken")
        self._state = counted(self._state, found, self._layer)
        edit = along(self._state, found, self._layer, self._settings, self._size)
        self.kernel = self.kernel + HOST.run(Edit.apply, edit, np.zeros_like(self.kernel))
