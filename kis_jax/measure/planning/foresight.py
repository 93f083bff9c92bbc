"""What edits will move, foreseen from the Gram matrix of keys: no kernel, and no model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kis_jax.core.ledger import Rule


def foresee(
    gram: np.ndarray,
    requested: np.ndarray,
    blocks: Sequence[slice],
    *,
    rule: Rule,
    penalty: float = 0.0,
) -> np.ndarray:
    r"""How far the values of keys move, edited and untouched ones alike.

    Every closed form is Gaussian regression on whitened keys, and so is known from inner products
    of keys alone. A block b of edits that still lacks $R_b$ moves all values by
    $G_{:b} (G_{bb} + \lambda I)^{-1} R_b$, and what it has settled later blocks leave alone:
    $G \leftarrow G - G_{:b} (G_{bb} + \lambda I)^{-1} G_{b:}$. Constrained edits have
    $\lambda = 0$; MEMIT has its weight for $\lambda$; AlphaEdit its ridge, and $G = K N K^\top$.
    The paper's edits forget: each moves all values by $G_{:i} x_i / G_{ii}$ and G stays as it is.

    Args:
      gram: `(N, N)`, $k_i^\top C^{-1} k_j$ (null space: $k_i^\top N k_j$), the n edited keys
        first, in their order, then keys to be left alone.
      requested: `(n, m)`: values asked for, less the values before all edits.
      blocks: of rows of `requested`, the edits that are solved together, in their order. For
        "sequential" and "constrained" edits it makes no difference how they are cut.
      rule: of the edits.
      penalty: $\lambda$.

    Returns:
      `(N, m)` float64: the change of each key's value.

    Raises:
      ValueError: if the shapes do not agree, or the edited keys are linearly dependent although
        nothing is added to G.

    Example:
      >>> import numpy as np
      >>> gram = np.array([[2.0, 1.0], [1.0, 4.0]])
      >>> foresee(gram, np.array([[4.0], [0.0]]), [slice(0, 2)], rule="sequential")
      array([[3.5],
             [0. ]])

    Reference: Hu et al. 2024 (arXiv 2408.07413), eqs. 12 to 15; Rasmussen and Williams 2006, eq.
    2.25.
    """
    gram, requested = np.asarray(gram, np.float64), np.asarray(requested, np.float64)
    n = len(requested)
    if gram.ndim != 2 or gram.shape[0] != gram.shape[1] or n > len(gram) or requested.ndim != 2:
        raise ValueError(
            "gram, requested: expected shapes (N, N) and (n, m), the n edited keys first, found "
            f"{gram.shape} and {requested.shape}"
        )
    moved = np.zeros((len(gram), requested.shape[1]))
    for block in blocks:
        own, reach = gram[block, block], gram[:, block]
        unmet = requested[block] - moved[block.start : block.stop]
        if rule == "sequential":
            moved = moved + reach @ _one_by_one(own, unmet)
            continue
        factor = _factor(own + penalty * np.eye(len(own)))
        spread = _solve(factor, reach.T)  # (b, N): its inner products are the share of each key
        moved = moved + spread.T @ _solve(factor, unmet)
        gram = gram - spread.T @ spread
    return moved


def _one_by_one(gram: np.ndarray, unmet: np.ndarray) -> np.ndarray:
    r"""$x_i / G_{ii}$ of edits each of which meets what those before it have left."""
    return np.linalg.solve(np.tril(gram), unmet)


def _factor(matrix: np.ndarray) -> np.ndarray:
    try:
        return np.linalg.cholesky(matrix)
    except np.linalg.LinAlgError:
        raise ValueError(
            "gram: expected linearly independent keys within a block, found some that are not; "
            "leave duplicates out, or pass a penalty"
        ) from None


def _solve(factor: np.ndarray, right: np.ndarray) -> np.ndarray:
    return np.linalg.solve(factor, right)
