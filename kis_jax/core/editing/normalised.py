"""UltraEdit: gradients, normalised over all edits so far, say what to write, and no search."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Bool, Float

from kis_jax.core.arrays.products import matmul
from kis_jax.core.arrays.pytrees import pytree
from kis_jax.core.editing.ledger import Edit
from kis_jax.core.editing.replay import Asked, replay
from kis_jax.core.geometry.second_moment import SecondMoment
from kis_jax.core.statistics.moments import Moments, moments

_LEAST = 1e-6  # eigenvalues of the gradients' second moment, as a share of the mean one


@pytree
@dataclasses.dataclass(frozen=True, eq=False)
class Normalised:
    r"""Lifelong statistics of keys and gradients, and what they make of those of new edits.

    $v_i = -\eta \, |\tilde h_i|^2 \, \tilde g_i$, $\tilde h$ and $\tilde g$ less their running
    mean, over their running deviation; then $D = (H^\top H + \rho I)^{-1} H^\top V$ with H as it
    was. With `whitened`, StableEdit: $\tilde g = M^{-1/2} g$, M the running second moment of g.

    Lengths are in units of the model: $\tilde h / \sqrt d$ and $\tilde g / \sqrt m$ have a length
    of 1 or so, so that $\eta$ is the length of a typical shift, and $\rho$ a share of the mean
    $|h|^2$. The authors' $\eta$ of $10^{-6}$ stands for $10^{-6} d \sqrt m$ here.

    Attributes:
      keys: moments over tokens, of each of d.
      gradients: likewise, of each of m.
      outer: the second moment of gradients, `(m, m)`.
      whitened: whether gradients are whitened by it.
    """

    keys: Moments
    gradients: Moments
    outer: SecondMoment
    whitened: bool = dataclasses.field(default=False, metadata={"static": True})

    @classmethod
    def init(
        cls, d: int, m: int, *, whitened: bool = False, dtype: DTypeLike = jnp.float32
    ) -> Normalised:
        """Before all edits of a kernel `(d, m)`."""
        h, g = (Moments(*(jnp.zeros(width, dtype) for _ in range(5))) for width in (d, m))
        return cls(h, g, SecondMoment.zeros(m, dtype=dtype), whitened)

    def update(
        self,
        keys: Float[Array, "n d"],
        gradients: Float[Array, "n m"],
        where: Bool[Array, " n"] | None = None,
    ) -> Normalised:
        """The statistics with those of some more tokens, `(n, d)` and `(n, m)`."""
        counted = None if where is None else where[:, None]
        return dataclasses.replace(
            self,
            keys=self.keys.merge(moments(keys, axis=0, where=counted)),
            gradients=self.gradients.merge(moments(gradients, axis=0, where=counted)),
            outer=self.outer.update(gradients, where),
        )

    def values(
        self, keys: Float[Array, "n d"], gradients: Float[Array, "n m"]
    ) -> Float[Array, "n m"]:
        """What is to be added to the values of some tokens, for a step of 1, `(n, m)`."""
        h = _standard(keys, self.keys)
        if self.whitened:
            sizes, vectors = jnp.linalg.eigh(self.outer.mean)
            kept = sizes > _LEAST * jnp.mean(sizes)
            roots = jnp.where(kept, 1 / jnp.sqrt(jnp.where(kept, sizes, 1)), 0)
            g = matmul(matmul(gradients, vectors) * roots[None], vectors.T)
        else:
            g = _standard(gradients, self.gradients)
        return -jnp.mean(h**2, axis=1, keepdims=True) * g / jnp.sqrt(float(g.shape[1]))

    def edit(
        self,
        keys: Float[Array, "n d"],
        gradients: Float[Array, "n m"],
        step: Float[Array, ""],
        ridge: Float[Array, ""],
    ) -> Edit:
        r"""The update of some tokens, which `update` has counted: `n` rows, solved together.

        Args:
          keys: H, `(n, d)`; rows of zeros are none.
          gradients: of the loss by the layer's values, `(n, m)`.
          step: $\eta$, the length of a typical shift, in the units of values.
          ridge: $\rho$, as a share of the mean $|h|^2$.

        Returns:
          An `Edit` of n rows.

        Reference: arXiv 2505.14679 (UltraEdit), as its released code has it.
        """
        counted = jnp.any(keys != 0, axis=1)
        shifts = step * jnp.where(counted[:, None], self.values(keys, gradients), 0)
        squares = jnp.mean(jnp.sum(keys**2, axis=1), where=counted)
        return replay(Asked(keys, keys, shifts), "batch", weight=ridge * squares)


def _standard(rows: Array, over: Moments) -> Array:
    """Less the mean, over the deviation; zeros where there is none."""
    spread = jnp.sqrt(jnp.maximum(over.variance, 0))[None]
    return jnp.where(spread > 0, (rows - over.mean[None]) / jnp.where(spread > 0, spread, 1), 0)
