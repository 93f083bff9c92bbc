r"""Keys of mixtures of experts, and what their memory makes of them.

A mixture's values $\sum_e g_e\,k_e W_e$ are linear in the gated keys $a = (g_e k_e)_e$ of all
experts, zero for those that a token is not routed to: one memory, of the second matrices one below
the other. What an update $D = (D_e)_e$ costs on ordinary text is taken to be
$\sum_e \mathrm{tr}\, D_e^\top C_e D_e$ with $C_e$ the mean of $g_e^2 k_e k_e^\top$ over all tokens:
the diagonal blocks of the second moment of $a$. The blocks between two experts that read the same
token are left out, so that memory and time grow with the number of experts, not with its square.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Bool, Float

from kis_jax.core.arrays.groups import group_rows
from kis_jax.core.arrays.products import gram, inner
from kis_jax.core.geometry.second_moment import SecondMoment
from kis_jax.core.geometry.spaces import Space


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Routed:
    """Keys of those experts alone that a token is routed to.

    Attributes:
      keys: `(..., k, d)`, of the k experts of each token.
      experts: which these are, `(..., k)` int; those of one token differ.
      gates: what their values are multiplied by, `(..., k)`.
    """

    keys: Array
    experts: Array
    gates: Array

    def __getitem__(self, index: Any) -> Routed:
        """Of some tokens."""
        return jax.tree.map(lambda array: array[index], self)

    def __len__(self) -> int:
        """Number of tokens along the first axis."""
        return len(self.experts)

    @property
    def gated(self) -> Array:
        """Keys times gates, `(..., k, d)`: what values are linear in."""
        return self.keys * self.gates[..., None]


def routed_second_moment(
    routed: Routed, where: Bool[ArrayLike, "*tokens"] | None = None, *, experts: int
) -> SecondMoment:
    """Second moments of gated keys, expert by expert; `merge` adds those of other tokens.

    Args:
      routed: of tokens, `(..., k, d)`.
      where: `(...)` bool, the tokens that count; all if None.
      experts: how many the layer has.

    Returns:
      Stacked over experts: `total` `(experts, d, d)`, and as `count` the tokens that each has read.
      Each token is read by k of them, so that all counts together are k times the tokens.

    Examples:
      >>> import jax.numpy as jnp
      >>> keys = jnp.array([[[1.0, 2.0]], [[3.0, 0.0]]])
      >>> tokens = Routed(keys, jnp.array([[1], [1]]), jnp.array([[1.0], [0.5]]))
      >>> found = routed_second_moment(tokens, experts=2)
      >>> found.total[1], found.count
      (Array([[3.25, 2.  ],
             [2.  , 4.  ]], dtype=float32), Array([0, 2], dtype=int32))
    """
    d, chosen = routed.keys.shape[-1], routed.experts.shape[-1]
    where = jnp.ones(routed.experts.shape[:-1], bool) if where is None else jnp.asarray(where, bool)
    empty = SecondMoment.zeros(d)
    if chosen == experts:  # all read all: in the order of experts, one after another
        ordered = jnp.argsort(routed.experts, axis=-1)
        gated = jnp.take_along_axis(routed.gated, ordered[..., None], axis=-2)
        _, found = jax.lax.scan(
            lambda _, keys: (None, empty.update(keys, where)), None, jnp.moveaxis(gated, -2, 0)
        )
        return found
    owners = jnp.where(where[..., None], routed.experts, experts).reshape(-1)
    groups = group_rows(owners, experts)

    def add(total: Array, block: tuple[Array, Array]) -> tuple[Array, None]:
        owner, keys = block
        return total.at[owner].add(gram(keys, total.dtype)), None

    start = jnp.zeros((experts, d, d), empty.total.dtype)
    blocks = groups.owners, groups.blocks(routed.gated.reshape(-1, d))
    total, _ = jax.lax.scan(add, start, blocks)
    return SecondMoment(total, jnp.zeros(experts, jnp.int32).at[owners].add(1, mode="drop"))


def concatenated(routed: Routed, experts: int) -> Float[Array, "*tokens e*d"]:
    """Rows of a mixture's whole memory: gated keys at the places of their experts, zeros elsewhere.

    Values are their product with the experts' kernels one below the other, so that every closed
    form takes them as it takes keys, in a `kis_jax.core.geometry.spaces.BlockDiagonal`.

    Args:
      routed: of tokens, `(..., k, d)`: of facts, not of a corpus, as rows are as wide as all
        experts together.
      experts: how many the layer has.

    Examples:
      >>> import jax.numpy as jnp
      >>> token = Routed(jnp.array([[1.0, 2.0]]), jnp.array([2]), jnp.array([0.5]))
      >>> concatenated(token, 3)
      Array([0. , 0. , 0. , 0. , 0.5, 1. ], dtype=float32)
    """
    *tokens, chosen, d = routed.keys.shape
    gated = routed.gated.reshape(-1, chosen, d)
    place = jnp.arange(len(gated))[:, None], routed.experts.reshape(-1, chosen)
    rows = jnp.zeros((len(gated), experts, d), gated.dtype).at[place].set(gated)
    return rows.reshape(*tokens, experts * d)


class Share(NamedTuple):
    """What of some facts one expert reads.

    Attributes:
      rows: which facts, `(r,)` int, in ascending order.
      keys: their gated keys, `(r, d)`.
    """

    rows: Array
    keys: Array


def by_expert(routed: Routed) -> dict[int, Share]:
    """The facts of each expert that reads any, experts in ascending order.

    Raises:
      ValueError: if a gate is not finite, or an expert stands twice with one fact.
    """
    experts = routed.experts
    if experts.ndim != 2 or routed.keys.ndim != 3:
        raise ValueError(
            f"routed: expected one token a fact, keys (n, k, d), found {routed.keys.shape}"
        )
    sound = jnp.all(jnp.isfinite(routed.gates), axis=1)
    if not jnp.all(sound):
        fact = int(jnp.argmin(sound))
        raise ValueError(
            f"routed: expected finite gates, found NaN or infinity in fact {fact} (counted from 0)"
            "; check the router's weights, and try float32 if it ran in bfloat16"
        )
    if jnp.any(jnp.diff(jnp.sort(experts, axis=1), axis=1) == 0):
        raise ValueError("routed: expected different experts for each fact, found one twice")
    gated = routed.gated
    found = {}
    for expert in jnp.unique(experts):
        rows, slots = jnp.nonzero(experts == expert)
        found[int(expert)] = Share(rows, gated[rows, slots])
    return found


def routed_gram(
    routed: Routed, spaces: Mapping[int, Space] | None = None, others: Routed | None = None
) -> Float[Array, "n q"]:
    r"""Inner products of facts in a mixture's memory.

    $G_{ij} = \sum_e g_{ie} g_{je}\,k_{ie}^\top C_e^{-1} k_{je}$.

    Args:
      routed: of facts, one token each, `(n, k, d)`.
      spaces: of each expert that reads any, looked up once, in ascending order: a mapping may make
        each when it is asked for. None for the keys as they are, Q.
      others: the facts of columns; the same if None.

    Returns:
      `(n, q)`; entries of facts that share no expert are exactly zero.
    """
    columns = by_expert(routed if others is None else others)
    found = jnp.zeros((len(routed), len(routed if others is None else others)), routed.keys.dtype)
    for expert, share in by_expert(routed).items():
        if expert not in columns:
            continue
        space = None if spaces is None else spaces[expert]
        a, b = (
            part.keys if space is None else space.coordinates(part.keys)
            for part in (share, columns[expert])
        )
        products = inner(a, b, extended=space is not None and space.extended)
        place = jnp.ix_(share.rows, columns[expert].rows)
        found = found.astype(products.dtype).at[place].add(products)
    return found


class Coordinates(NamedTuple):
    r"""Of facts of which inner products alone are known, $F F^\top = G$.

    Attributes:
      rows: F, `(n, n)`: a fact a row.
      axes: the eigenvectors of G, `(n, n)`, as columns.
      roots: of its eigenvalues, `(n,)`; 0 for those that are rounding.
    """

    rows: Array
    axes: Array
    roots: Array


def coordinates_of(products: Float[Array, "n n"]) -> Coordinates:
    """Coordinates of facts from their inner products, as those of `routed_gram`."""
    sizes, axes = jnp.linalg.eigh(products)
    least = len(products) * jnp.finfo(sizes.dtype).eps * jnp.max(sizes)
    roots = jnp.sqrt(jnp.where(sizes > least, sizes, 0.0))
    return Coordinates(axes * roots, axes, roots)


def routed_superposition(
    routed: Routed, spaces: Mapping[int, Space], others: Routed | None = None
) -> Float[Array, "n q"]:
    r"""P of a mixture: the share of an edit of fact i, joint over its experts, that lands on j.

    $P_{ij} = \sum_e g_{ie} g_{je}\,k_{ie}^\top C_e^{-1} k_{je} / \sum_e g_{ie}^2\,k_{ie}^\top
    C_e^{-1} k_{ie}$. Of one expert it is `superposition`.

    Args:
      routed: the facts that are edited, `(n, k, d)`.
      spaces: see `routed_gram`.
      others: the facts that are touched; the edited ones themselves if None.

    Examples:
      >>> import jax.numpy as jnp
      >>> from kis_jax.core.geometry.whitening import whitener
      >>> facts = Routed(jnp.array([[[1.0, 0.0]], [[1.0, 1.0]], [[1.0, 0.0]]]),
      ...     jnp.array([[0], [0], [1]]), jnp.ones((3, 1)))
      >>> w = whitener(jnp.eye(2))
      >>> routed_superposition(facts, {0: w, 1: w})
      Array([[1. , 1. , 0. ],
             [0.5, 1. , 0. ],
             [0. , 0. , 1. ]], dtype=float32)
    """
    products = routed_gram(routed, spaces, others)
    own = products if others is None else routed_gram(routed, spaces)
    return products / jnp.diagonal(own)[:, None]
