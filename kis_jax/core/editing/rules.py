"""Rules of editing: what the edits before leave of a new key, and how much is written along it."""

from __future__ import annotations

import abc
import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float, Real

from kis_jax.core.arrays.checks import holds_or_traced
from kis_jax.core.arrays.orthonormal import orthonormal, own_share
from kis_jax.core.arrays.products import inner, scaled
from kis_jax.core.arrays.pytrees import exported, pytree
from kis_jax.core.arrays.successive import residuals_met
from kis_jax.core.arrays.triangular import solve_columns

TOGETHER = ("batch", "null_space")
"""Names of closed forms whose edits are solved together, so that rows have no order."""

ALIASES = {"emmet": "constrained", "memit": "batch", "alphaedit": "null_space"}
"""The names that the literature has for some of them."""


@exported
class Earlier(NamedTuple):
    r"""Edits made before, in coordinates; rows of zeros are none.

    Attributes:
      along: $a_i$, `(c, r)`, the directions of the edits, $a_i \cdot z_i = 1$.
      own: $s_i$, `(c,)`, what the edits before i had left of the squared length of its key.
    """

    along: Array
    own: Array


class Rule(abc.ABC):
    r"""How an edit treats those before it.

    Edit j is made along $u_j$, what its rule leaves of the key's coordinates $z_j$. With
    $s_j = u_j \cdot z_j$ and the direction $a_j = u_j / s_j$, it writes the part $g(s_j)$ of what
    its value still lacks:

    $$x_j = g(s_j) \, \Big(r_j - \sum_{i<j} (a_i \cdot z_j) \, x_i\Big), \qquad
      \Delta = \sum_j a_j \otimes x_j .$$

    That is all there is to a closed form. To make another rule, give `left`, and `gain` if not all
    that is asked is written; ledger, prefixes, undo, replay and forecast follow. Rules are pytrees:
    register them, and their numbers are arguments of compiled programs.

    Attributes:
      name: as an `Edit` has it; a static field, which no two kinds of rules share: jax 0.10 takes
        dataclasses of one number of fields for the same unless something static differs.
      remembers: whether `left` looks at the edits before.
      by_blocks: whether edits depend on the blocks in which they came, as those of a rule that
        remembers within a block alone.
    """

    name: str
    remembers: bool = True
    by_blocks: bool = False

    @abc.abstractmethod
    def left(
        self,
        rows: Float[Array, "b p"],
        keys: Float[Array, "b r"],
        earlier: Earlier | None,
        *,
        extended: bool = False,
    ) -> Float[Array, "b p"]:
        r"""What is left of each of some new keys by the edits before it.

        Args:
          rows: $z_j$, `(b, p)`. As a rule of keys themselves, this is where directions lie: in
            `replay` rows $C^{-1} k_j$, or columns of a Gram matrix.
          keys: $z_j$, `(b, r)`, with inner products `rows @ keys.T`, symmetric; the same array as
            `rows` wherever there are coordinates.
          earlier: edits before the block, in coordinates; None if there are none.
          extended: whether products are rounded only at their end, for float32.

        Returns:
          $u_j$, `(b, p)`; zeros for a key that is not to be edited.
        """

    def gain(self, own: Float[Array, " b"]) -> Float[Array, " b"]:
        """The part that is written, of $s$ `(b,)`: all of it."""
        return jnp.ones_like(own)


@pytree
@dataclasses.dataclass(frozen=True, eq=False)
class Sequential(Rule):
    """Forgets: each edit a rank-one update of the kernel that the last one left."""

    name: str = dataclasses.field(default="sequential", metadata={"static": True})
    remembers = False

    def left(
        self,
        rows: Float[Array, "b p"],
        keys: Float[Array, "b r"],
        earlier: Earlier | None,
        *,
        extended: bool = False,
    ) -> Float[Array, "b p"]:
        """The keys as they are."""
        return rows


@pytree
@dataclasses.dataclass(frozen=True, eq=False)
class Constrained(Rule):
    """Keeps every earlier value exact: an edit is made along what no earlier key spans.

    Gram and Schmidt's orthogonalisation, done twice, in place of a Cholesky factor of the Gram
    matrix: the same cost, and stable for keys that are nearly alike (Giraud, Langou and Rozloznik
    2005).

    Attributes:
      tolerance: the least share of a key's squared length that earlier ones must leave to it.
    """

    tolerance: Array
    name: str = dataclasses.field(default="constrained", metadata={"static": True})

    def left(
        self,
        rows: Float[Array, "b p"],
        keys: Float[Array, "b r"],
        earlier: Earlier | None,
        *,
        extended: bool = False,
    ) -> Float[Array, "b p"]:
        """Its part at right angles to all earlier ones; zeros where that is too small a part."""
        same = rows is keys
        keys, power = scaled(keys)  # so that no square leaves the range of the dtype
        rows = keys if same else rows * power
        lengths = jnp.sqrt(jnp.sum(rows * keys, axis=1, keepdims=True))
        lengths = jnp.where(lengths > 0, lengths, 1)
        left = rows
        if earlier is not None:
            for _ in range(2):
                left = _less(left, left, earlier, earlier.own, extended)
        left, key = left / lengths, keys / lengths
        dual = None if same else key
        for _ in range(2):
            left, dual = orthonormal(left, self.tolerance, dual, extended=extended)
        reach = jnp.sum(left * key, axis=1, keepdims=True)  # the root of its share
        return left * reach * lengths / power


@pytree
@dataclasses.dataclass(frozen=True, eq=False)
class Ridge(Rule):
    r"""Remembers in least squares: all facts together minimise |K W - V|^2 + w |W - W_0|^2.

    With $M = (w I + \sum_i z_i z_i^\top)^{-1}$ over the edits before, $u = w M z$: recursive least
    squares, for which each edit takes $u u^\top / (w + s)$ off $w M$. So after any number of edits,
    in blocks of any cut, the update is the ridge regression over all of them.

    Attributes:
      weight: w, positive, in the units of $k^\top C^{-1} k$.
    """

    weight: Array
    name: str = dataclasses.field(default="ridge", metadata={"static": True})

    def before(
        self,
        rows: Float[Array, "b p"],
        keys: Float[Array, "b r"],
        earlier: Earlier | None,
        *,
        extended: bool = False,
    ) -> Float[Array, "b p"]:
        """What the edits before the block leave of each of its keys."""
        if earlier is None:
            return rows
        return _less(rows, keys, earlier, earlier.own**2 / (self.weight + earlier.own), extended)

    def left(
        self,
        rows: Float[Array, "b p"],
        keys: Float[Array, "b r"],
        earlier: Earlier | None,
        *,
        extended: bool = False,
    ) -> Float[Array, "b p"]:
        """W M z, the block's own earlier keys in M too: by the factor of M's inverse on them."""
        rows = self.before(rows, keys, earlier, extended=extended)
        factor = _factor(inner(rows, keys, extended=extended), self.weight)
        return jnp.diagonal(factor)[:, None] * solve_columns(factor, rows)

    def gain(self, own: Float[Array, " b"]) -> Float[Array, " b"]:
        """S / (w + s)."""
        return own / (self.weight + own)


def _less(rows: Array, keys: Array, earlier: Earlier, weights: Array, extended: bool) -> Array:
    """Rows less what earlier directions, each with a weight, share with the keys."""
    shares = inner(keys, earlier.along, extended=extended) * weights[None]
    return rows - inner(shares, earlier.along.T, extended=extended)


class Solved(NamedTuple):
    """Edits in coordinates; of one that was not accepted, zeros.

    Attributes:
      along: `(b, p)`.
      own: `(b,)`.
      residuals: `(b, m)`.
      accepted: `(b,)` bool.
    """

    along: Array
    own: Array
    residuals: Array
    accepted: Array


def solve_in_order(
    rule: Rule,
    rows: Float[Array, "b p"],
    keys: Float[Array, "b r"],
    lacking: Float[Array, "b m"],
    earlier: Earlier | None = None,
    *,
    extended: bool = False,
) -> Solved:
    """A block of edits, one after another, by a rule: the one statement of all closed forms.

    Args:
      rule: of the edits.
      rows: `(b, p)`, see `Rule.left`.
      keys: `(b, r)`.
      lacking: `(b, m)`, values asked for less those found before the block.
      earlier: edits before the block.
      extended: whether products are rounded only at their end, for float32.
    """
    left = rule.left(rows, keys, earlier, extended=extended)
    left, of_left = scaled(left)  # so that no square leaves the range of the dtype
    unit, power = scaled(keys)
    own = jnp.sum(left * unit, axis=1, keepdims=True)
    accepted = own > 0
    along = jnp.where(accepted, left / jnp.where(accepted, own, 1) * power, 0)
    own = jnp.where(accepted, own / of_left / power, 0)[:, 0]
    accepted = accepted[:, 0]
    gain = jnp.where(accepted, rule.gain(own), 0)[:, None]
    found = residuals_met(gain * along, keys, lacking, extended=extended)
    return Solved(along, own, jnp.where(gain > 0, gain * found, 0), accepted)


def solve_together(
    rule: Ridge,
    rows: Float[Array, "b p"],
    keys: Float[Array, "b r"],
    lacking: Float[Array, "b m"],
    earlier: Earlier | None = None,
    *,
    extended: bool = False,
) -> Solved:
    """The same block by `Ridge` as one system: half of the work, and no edit before another.

    Along is what the edits before the block have left of the key alone.
    """
    left = rule.before(rows, keys, earlier, extended=extended)
    gram = inner(left, keys, extended=extended)
    factor = _factor(gram, rule.weight)
    found = solve_columns(factor, solve_columns(factor, lacking), transpose=True)
    own = jnp.diagonal(gram)
    accepted = own > 0  # else a key outside of the space in which the edit may write
    own = jnp.where(accepted, own, 0)
    along = jnp.where(accepted[:, None], left / jnp.where(accepted, own, 1)[:, None], 0)
    return Solved(along, own, found * own[:, None], accepted)


def _factor(gram: Array, weight: Array) -> Array:
    """Cholesky's factor of G + w I."""
    return jnp.linalg.cholesky(gram + weight * jnp.eye(gram.shape[0], dtype=gram.dtype))


def sequential() -> Sequential:
    r"""The paper's rule, which forgets: rank-one edits, each on the kernel that the last one left.

    Returns:
      A rule for `Editor.init` and `replay`.

    Examples:
      >>> sequential().name
      'sequential'

    Reference: Hu et al. 2024 (arXiv 2408.07413), eqs. 9 to 12.
    """
    return Sequential()


def ridge(
    weight: float | Float[Array, ""],
    *,
    tolerance: float | Float[Array, ""] | None = None,
    dtype: DTypeLike = jnp.float32,
) -> Ridge | Constrained:
    r"""The rule that remembers: all earlier keys stay in the solve.

    In the space of $C^{-1}$ it is MEMIT and its lifelong form, in that of N AlphaEdit's; of weight
    0 it is EMMET's, all values exact.

    Args:
      weight: w, not negative: how many tokens of ordinary text weigh as much as a fact.
      tolerance: of weight 0: the least share of a key's squared length that earlier ones must leave
        to it. None: the root of the machine epsilon.
      dtype: whose epsilon that is.

    Returns:
      A rule for `Editor.init` and `replay`.

    Raises:
      ValueError: if the weight is negative or not one number, or a tolerance comes with another
        weight than 0.

    Examples:
      >>> ridge(0).name, ridge(2.5).name
      ('constrained', 'ridge')

    Reference: Meng et al. 2023 (arXiv 2210.07229), eq. 14; Gupta et al. 2024 (arXiv 2403.14236),
    eq. 9; Fang et al. 2025 (arXiv 2410.02355), eq. 14.
    """
    if isinstance(weight, (int, float)) and weight == 0:
        return Constrained(own_share(dtype, tolerance))
    if tolerance is not None:
        raise ValueError(f"tolerance: expected none with weight {weight}; it is for weight 0 alone")
    return Ridge(positive("weight", weight, None))


def positive(
    name: str, number: float | Real[Array, ""], dtype: DTypeLike | None
) -> Real[Array, ""]:
    """A number as an array of no dimensions.

    Raises:
      ValueError: if it is not positive, as far as that can be known.
    """
    array = jnp.asarray(number, dtype)
    if array.ndim or not holds_or_traced(array > 0):
        raise ValueError(f"{name}: expected a positive number, found {number}")
    return array
