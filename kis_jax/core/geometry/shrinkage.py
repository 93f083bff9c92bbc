"""A second moment from few tokens, drawn towards one that says less."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Real

from kis_jax.core.arrays.pytrees import exported
from kis_jax.core.geometry.second_moment import SecondMoment, as_matrix


@exported
class Shrunk(NamedTuple):
    """A shrunk second moment.

    Attributes:
      mean: `(d, d)`, to be handed to `whitener`.
      intensity: `()`, from 0 (C as it was measured) to 1 (nothing but its diagonal).
    """

    mean: Array
    intensity: Array


def shrink(second_moment: SecondMoment, *, count: Real[ArrayLike, ""] | None = None) -> Shrunk:
    r"""Oracle-approximating shrinkage (OAS) of C towards its own diagonal.

    C measured over few tokens exaggerates: its large eigenvalues are too large, its small ones too
    small, and $C^{-1}$ makes the most of the small ones. Shrinkage takes off-diagonal entries
    times $1 - \rho$. Chen et al. give the $\rho$ that an oracle, knowing the true C, would choose
    for the least squared error, as far as it follows from the sample alone: with R the second
    moment scaled to unit diagonal, over n tokens in d dimensions,

    $$\rho = \min\left(1,\ \frac{(1 - 2/d)\, \mathrm{tr} R^2 + d^2}
                                {(n + 1 - 2/d)\,(\mathrm{tr} R^2 - d)}\right).$$

    They shrink towards a multiple of the identity. The scale of neurons differs by orders of
    magnitude in one layer, so here R is shrunk towards the identity and scaled back: towards the
    diagonal of C. In this way the result does not depend on the units of neurons.

    The formula is derived for independent normal vectors of mean zero. Keys are neither normal nor
    of mean zero, and the tokens of one text are alike, so that n tokens are worth fewer and $\rho$
    comes out too small for C. But what it optimises is the error of C, not that of $C^{-1}$ or P:
    on factlm the number of tokens itself gives the better P, and an eighth of it a worse one than
    no shrinkage does.

    Args:
      second_moment: of `(d, d)`, d of 2 or more.
      count: n, the number of independent keys that it is taken to be worth; its number of tokens
        if None.

    Returns:
      A `Shrunk`. Neurons that were never active keep their zero, and a second moment without
      correlations is returned as it is, with intensity 1.

    Raises:
      ValueError: if the second moment is not a single `(d, d)` one, counts no token, or is not of
        finite numbers.

    Examples:
      >>> import jax.numpy as jnp
      >>> few = SecondMoment.zeros(3).update(jnp.array([[1.0, 2.0, 0.0], [1.0, -1.0, 1.0]]))
      >>> shrunk = shrink(few)
      >>> few.mean[0, 1], shrunk.mean[0, 1], shrunk.intensity
      (Array(0.5, dtype=float32), Array(0., dtype=float32), Array(1., dtype=float32))

    Reference: Chen, Wiesel, Eldar, Hero 2010, Shrinkage Algorithms for MMSE Covariance Estimation
    (IEEE Transactions on Signal Processing 58), eq. 23.
    """
    if not isinstance(second_moment, SecondMoment):
        raise ValueError(
            f"second_moment: expected a SecondMoment, found {type(second_moment).__name__}; how "
            "much to shrink follows from the number of its tokens"
        )
    c = as_matrix(second_moment)
    d = len(c)
    n = jnp.asarray(second_moment.count if count is None else count).astype(c.dtype)
    scale = jnp.sqrt(jnp.diagonal(c))
    inverse = jnp.where(scale > 0, 1 / jnp.where(scale > 0, scale, 1), 0)
    squares = jnp.sum(jnp.square(inverse[:, None] * c * inverse[None]))
    alive = jnp.sum(scale > 0).astype(c.dtype)
    above = jnp.maximum(squares - alive, 0)
    share = (1 - 2 / alive) * squares + alive**2
    below = (n + 1 - 2 / alive) * above
    intensity = jnp.where(share < below, share / jnp.where(below > 0, below, 1), 1)
    return Shrunk(jnp.where(jnp.eye(d, dtype=bool), c, (1 - intensity) * c), intensity)
