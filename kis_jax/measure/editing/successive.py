"""Edits made to one kernel as they come, block by block, in float64 on the host."""

from __future__ import annotations

import abc
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jax import Array

from kis_jax.core.editor import Editor
from kis_jax.core.edits import edit_batch, edit_null_space
from kis_jax.core.host import float64_on_host
from kis_jax.core.ledger import Edit
from kis_jax.core.whitening import Whitener


class SuccessiveEdits(abc.ABC):
    """A kernel, and the edits made to it so far.

    Attributes:
      kernel: as the edits left it, `(d, m)` float64 NumPy.
    """

    def __init__(self, kernel: np.ndarray) -> None:
        """Starts without edits."""
        self.kernel = np.asarray(kernel, np.float64)

    @abc.abstractmethod
    def add(self, keys: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Makes the edits of a block.

        Args:
          keys: `(b, d)`.
          values: asked for, `(b, m)`.

        Returns:
          `(b,)` bool: which of them were made.
        """


class OneByOne(SuccessiveEdits):
    """Each edit a rank-one update: the paper's rule, or the one that keeps earlier values.

    A block is the same as its edits one after another. Edits are left out if a number in them is
    not finite, or (constrained) if their key lies in the span of the earlier ones.

    Example:
      >>> import numpy as np
      >>> from kis_jax import whitener
      >>> edits = OneByOne(np.zeros((2, 1)), whitener(np.eye(2)), 2, "sequential")
      >>> edits.add(np.array([[1.0, 0.0], [1.0, 1.0]]), np.array([[1.0], [0.0]]))
      array([ True,  True])
      >>> edits.kernel.round(3)  # the second took half of the first away
      array([[ 0.5],
             [-0.5]])
    """

    def __init__(
        self,
        kernel: np.ndarray,
        whitener: Whitener,
        capacity: int,
        rule: Literal["sequential", "constrained"],
    ) -> None:
        """Starts without edits, with room for `capacity` of them."""
        super().__init__(kernel)
        with float64_on_host():
            self._editor = Editor.init(self.kernel, whitener, capacity, rule=rule)

    def add(self, keys: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Makes the edits of a block; see `SuccessiveEdits.add`."""
        with float64_on_host():
            start = int(self._editor.count)
            self._editor, added = self._editor.add(jnp.asarray(keys), jnp.asarray(values))
            rows = slice(start, start + len(keys))
            directions = self._editor.whitener.directions(self._editor.along[rows])
            update = np.asarray(directions.T @ self._editor.residuals[rows])
        self.kernel = self.kernel + update
        return np.asarray(added.accepted)


class InBatches(SuccessiveEdits):
    """Each block in least squares, the keys of the blocks before it weighing as it does.

    With a whitener MEMIT's, with a projector AlphaEdit's closed form.
    """

    def __init__(self, kernel: np.ndarray, space: Whitener | np.ndarray, penalty: float) -> None:
        """Starts without edits.

        Args:
          kernel: `(d, m)`.
          space: the whitener of C, or the projector N, `(d, d)`, on the directions that are free.
          penalty: MEMIT's weight of C, or AlphaEdit's ridge.
        """
        super().__init__(kernel)
        self._space = space
        self._penalty = penalty
        self._earlier = np.zeros((0, len(self.kernel)))

    def add(self, keys: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Makes the edits of a block; see `SuccessiveEdits.add`."""
        finite = np.asarray(np.isfinite(keys).all(axis=1) & np.isfinite(values).all(axis=1))
        keys, values = np.asarray(keys[finite], np.float64), values[finite]
        if len(keys):
            with float64_on_host():
                kernel = jnp.asarray(self.kernel)
                edit = self._edit(kernel, jnp.asarray(keys), jnp.asarray(values))
                self.kernel = np.asarray(edit.apply(kernel))
            self._earlier = np.concatenate([self._earlier, keys])
        return finite

    def _edit(self, kernel: Array, keys: Array, values: Array) -> Edit:
        earlier = jnp.asarray(self._earlier) if len(self._earlier) else None
        if isinstance(self._space, Whitener):
            return edit_batch(kernel, keys, values, self._space, self._penalty, earlier)
        projector = jnp.asarray(self._space)
        return edit_null_space(kernel, keys, values, projector, self._penalty, earlier)
