"""Edits of a mixture of experts: one update over all experts that the facts are routed to."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from kis_jax.core.arrays.products import matmul
from kis_jax.core.editing.edits import edit_constrained
from kis_jax.core.editing.ledger import Edit
from kis_jax.core.geometry.routed import Routed, by_expert, coordinates_of, routed_gram
from kis_jax.core.geometry.spaces import Identity, Space


def routed_values(kernels: Mapping[int, Array] | Array, routed: Routed) -> Float[Array, "n m"]:
    """What a mixture's memory returns, `(n, m)`, for facts of one token each.

    Args:
      kernels: of each expert, `(d, m)`; those that no fact is routed to are not looked at.
      routed: `(n, k, d)`.
    """
    found: Array | None = None
    for expert, share in by_expert(routed).items():
        values = matmul(share.keys, jnp.asarray(kernels[expert]).astype(share.keys.dtype))
        if found is None:
            found = jnp.zeros((len(routed), values.shape[1]), values.dtype)
        found = found.at[share.rows].add(values)
    assert found is not None
    return found


def edit_routed(
    kernels: Mapping[int, Array] | Array,
    routed: Routed,
    values: Float[Array, "n m"],
    spaces: Mapping[int, Space],
    closed_form: Callable[..., Edit] = edit_constrained,
) -> dict[int, Edit]:
    r"""One joint edit of n facts over the experts that they are routed to.

    The memory of a mixture is linear in gated keys (see `kis_jax.core.geometry.routed`), so all
    closed forms hold for it; whatever the number of experts, they need the inner products of facts
    alone, G, `(n, n)`. With $G = F F^\top$ the rows of F are coordinates of the facts: the edit
    is made there, and its directions are taken back to each expert's own.

    Args:
      kernels: $W_e$ of each expert, `(d, m)`.
      routed: of the facts, in the order of the edits, `(n, k, d)`.
      values: V, `(n, m)`, the values asked for.
      spaces: of each expert; see `routed_gram`. Each is looked up twice.
      closed_form: of kernel, keys, values and space, such as `edit_constrained`, all facts
        exactly; `edit_sequential`; `functools.partial(edit_batch, weight=2.0)`.

    Returns:
      For each expert that reads any fact, an `Edit` of n rows. Directions are zero where a fact
      does not reach an expert; residuals are those of the joint edit, the same for all experts.

    Examples:
      >>> import jax.numpy as jnp
      >>> from kis_jax.core.geometry.whitening import whitener
      >>> facts = Routed(jnp.array([[[1.0, 0.0], [0.0, 1.0]]]), jnp.array([[0, 2]]),
      ...     jnp.array([[0.5, 0.5]]))
      >>> w = whitener(jnp.eye(2))
      >>> edits = edit_routed(jnp.zeros((3, 2, 1)), facts, jnp.ones((1, 1)), {0: w, 2: w})
      >>> {expert: edit.delta.ravel().tolist() for expert, edit in edits.items()}
      {0: [1.0, 0.0], 2: [0.0, 1.0]}
    """
    n = len(routed)
    products = routed_gram(routed, spaces)
    values = jnp.asarray(values, products.dtype)
    missing = values - routed_values(kernels, routed).astype(products.dtype)
    rows, axes, roots = coordinates_of(products)
    joint = closed_form(
        jnp.zeros((n, missing.shape[1]), products.dtype),
        rows,
        missing,
        Identity(n, products.dtype),
    )
    back = jnp.where(roots > 0, 1 / jnp.where(roots > 0, roots, 1.0), 0.0)
    of_facts = matmul(joint.directions * back, axes.T)  # of facts' own directions, (n, n)
    edits = {}
    for expert, share in by_expert(routed).items():
        own = spaces[expert].solve(share.keys).astype(products.dtype)
        edits[expert] = Edit(
            matmul(of_facts[:, share.rows], own),
            joint.residuals,
            joint.requested,
            rule=joint.rule,
        )
    return edits
