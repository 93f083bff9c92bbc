"""Filters: of what is asked of an edit, before its rule, and of what is written, after it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from kis_jax.core.arrays.checks import as_real, holds_or_traced
from kis_jax.core.arrays.products import inner
from kis_jax.core.arrays.pytrees import pytree
from kis_jax.core.editing.rules import Constrained, Rule, Sequential


class Filter:
    r"""What is changed of an edit on either side of its rule; each method here changes nothing.

    Filters are linear in what is written. One that is a projection F is *carried*: the rule goes on
    as if all had been written, so that each edit solves for what the others left as well, and after
    any number of edits the kernel has gained $F(\Delta)$, $\Delta$ being the update of the rule
    alone. That is $D = S^{-1} (K^\top R - E)$ with the remainder $E \leftarrow S (F(D) - D)$, and
    no state for it. One that is not carried meets the kernel as it was written.

    Attributes:
      name: of the kind; a static field.
      carried: see above.
      writes: whether it changes what is written, not only what is asked.
    """

    name: str
    carried: bool = True
    writes: bool = False

    def values(self, values: Float[Array, "b m"]) -> Float[Array, "b m"]:
        """Of the values asked for, `(b, m)`; NaN for an edit that is not to be made."""
        return values

    def residuals(self, residuals: Float[Array, "b m"]) -> Float[Array, "b m"]:
        """Of what values lack, `(b, m)`: a map of the rows of an update."""
        return residuals

    def directions(self, directions: Float[Array, "b d"]) -> Float[Array, "b d"]:
        """Of directions in which edits write, `(b, d)`: a map of the columns of an update."""
        return directions


@pytree
@dataclasses.dataclass(frozen=True, eq=False)
class Anchor(Filter):
    r"""Values of one length, so that norms do not grow from edit to edit; made by `norm_anchor`.

    Attributes:
      length: a, of every value, `()`.
    """

    length: Array
    name: str = dataclasses.field(default="anchor", metadata={"static": True})

    def values(self, values: Float[Array, "b m"]) -> Float[Array, "b m"]:
        """A v / |v|; NaN for a value of more than twice the length."""
        length = self.length.astype(values.dtype)
        found = jnp.linalg.norm(values, axis=1, keepdims=True)
        wild = found > 2 * length
        return jnp.where(wild, jnp.nan, values * length / jnp.where(found > 0, found, 1))


@pytree
@dataclasses.dataclass(frozen=True, eq=False)
class Protect(Filter):
    r"""Directions of the kernel in which nothing, or less, is written; made by `protect`, `sphere`.

    $F(D) = (I - \alpha U U^\top) \, D \, (I - V V^\top)$.

    Attributes:
      of_keys: U, `(d, k)`, orthonormal columns, or zeros.
      of_values: V, `(m, k)`, likewise.
      strength: $\alpha$, `()`.
      carried: see `Filter`: where $\alpha = 1$.
    """

    of_keys: Array
    of_values: Array
    strength: Array
    carried: bool = dataclasses.field(default=True, metadata={"static": True})
    name: str = dataclasses.field(default="protect", metadata={"static": True})
    writes = True

    def residuals(self, residuals: Float[Array, "b m"]) -> Float[Array, "b m"]:
        """Less its part in V."""
        return _less(residuals, self.of_values, 1)

    def directions(self, directions: Float[Array, "b d"]) -> Float[Array, "b d"]:
        """Less the part of strength in U."""
        return _less(directions, self.of_keys, self.strength.astype(directions.dtype))


def _less(rows: Array, columns: Array, part: Array | float) -> Array:
    columns = columns.astype(rows.dtype)
    return rows - part * inner(inner(rows, columns.T), columns)


def norm_anchor(values: Float[Array, "n m"], *, least: int = 20) -> Anchor:
    r"""NAS: every value is scaled to the mean length of those of pilot facts.

    $v \leftarrow a \, v / |v|$ with $a$ the mean of $|v|$; an edit with $|v| > 2 a$ is not made.

    Args:
      values: v* of pilot facts on the clean model, what the layer's MLP is to write, `(n, m)`;
        NASs' authors take a thousand. Rows that are not finite are passed over.
      least: so many pilot facts at least.

    Returns:
      A filter for `Editor.init` and `chain`.

    Raises:
      ValueError: if there are too few pilot facts for a mean, or their values are all zero.

    Examples:
      >>> values = jnp.stack([jnp.array([3.0, 4.0]), jnp.array([0.0, 1.0])])
      >>> norm_anchor(values, least=2).values(jnp.array([[2.0, 0.0]]))
      Array([[3., 0.]], dtype=float32)

    Reference: arXiv 2602.02543 (NAS), the rescaling of v*.
    """
    values = as_real("values", values)
    found = jnp.linalg.norm(values, axis=-1)
    sound = jnp.isfinite(found)
    if not holds_or_traced(jnp.sum(sound) >= least):
        raise ValueError(
            f"anchor: expected values of at least {least} pilot facts, found "
            f"{int(jnp.sum(sound))}, too few for their mean length; give more facts, or the length "
            "itself (of the commands: --set anchor=LENGTH)"
        )
    length = jnp.mean(found, where=sound)
    if not holds_or_traced(length > 0):
        raise ValueError("anchor: expected pilot facts with values of some length, found zeros")
    return Anchor(length)


def protect(kernel: Float[Array, "d m"], *, share: float = 0.3) -> Protect:
    r"""REVIVE: nothing is written in the kernel's dominant directions, of keys or of values.

    $D \leftarrow (I - U_k U_k^\top) D (I - V_k V_k^\top)$ with $W = U S V^\top$, the first k
    singular directions, as many as hold `share` of its energy.

    Args:
      kernel: W before all edits, `(d, m)`.
      share: of the sum of squares of W.

    Returns:
      A filter for `Editor.init` and `chain`, carried.

    Raises:
      ValueError: if the share is not between 0 and 1, or no direction is left to write in.

    Examples:
      >>> protect(jnp.diag(jnp.array([2.0, 1.0])), share=0.8).directions(jnp.ones((1, 2))).round(3)
      Array([[0., 1.]], dtype=float32)

    Reference: arXiv 2601.11042 (REVIVE).
    """
    kernel = as_real("kernel", kernel)
    left, sizes, right = jnp.linalg.svd(kernel, full_matrices=False)
    kept = _first(sizes**2, share, min(kernel.shape))
    return Protect(
        jnp.where(kept, left, 0), jnp.where(kept, right.T, 0), jnp.ones((), kernel.dtype)
    )


def sphere(kernel: Float[Array, "d m"], *, share: float = 0.5, strength: float = 0.5) -> Protect:
    r"""SPHERE: less is written in the dominant directions of keys, the neurons at unit length.

    $D \leftarrow (I - \alpha U U^\top) D$, U the top eigenvectors of $\hat W \hat W^\top$, as many
    as hold `share` of its trace, $\hat W$ being W with the weights of each value at unit length.

    What strength below 1 leaves off is not carried on: carried, later edits would write it after
    all, and nothing would be protected.

    Args:
      kernel: W before all edits, `(d, m)`.
      share: $\eta$.
      strength: $\alpha$, above 0 and at most 1.

    Returns:
      A filter for `Editor.init` and `chain`.

    Raises:
      ValueError: if share or strength is out of range, or no direction is left to write in.

    Examples:
      >>> kernel = jnp.array([[5.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
      >>> sphere(kernel, share=0.5).directions(jnp.ones((1, 2))).round(3)
      Array([[0.5, 1. ]], dtype=float32)

    Reference: arXiv 2510.01172 (SPHERE).
    """
    if not 0 < strength <= 1:
        raise ValueError(f"strength: expected a number above 0 and at most 1, found {strength}")
    kernel = as_real("kernel", kernel)
    lengths = jnp.linalg.norm(kernel, axis=0, keepdims=True)
    left, sizes, _ = jnp.linalg.svd(
        kernel / jnp.where(lengths > 0, lengths, 1), full_matrices=False
    )
    kept = _first(sizes**2, share, kernel.shape[0])
    none = jnp.zeros((kernel.shape[1], 1), kernel.dtype)
    return Protect(
        jnp.where(kept, left, 0),
        none,
        jnp.asarray(strength, kernel.dtype),
        carried=strength == 1,
    )


def _first(energies: Array, share: float, size: int) -> Array:
    """Which of falling energies are the first that together hold a share, `(k,)` bool.

    Raises:
      ValueError: if the share is out of range, or these are all of the `size` directions there are.
    """
    if not 0 < share < 1:
        raise ValueError(f"share: expected a number between 0 and 1, found {share}")
    kept = (jnp.cumsum(energies) - energies) < share * jnp.sum(energies)
    if not holds_or_traced(jnp.sum(kept) < size):
        raise ValueError(
            f"share: expected one that leaves directions to write in, found {share}, which "
            f"protects all {size} of them; lower it (of the commands: --set protected=SHARE)"
        )
    return kept


def check_filters(rule: Rule, filters: Sequence[Filter]) -> None:
    """Raises ValueError where filters do not go with a rule, or one comes twice."""
    names = [each.name for each in filters]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(
            f"filters: expected each kind once, found {min(twice)} twice; leave one out"
        )
    writing = next((each.name for each in filters if each.writes), None)
    if writing and isinstance(rule, Sequential):
        raise ValueError(
            f"{writing}: expected a rule in least squares, found sequential, which forgets: its "
            f"edits overwrite each other, and what {writing} takes off would come back; write "
            f"rlsedit+{writing}, or kis.ridge(weight)"
        )
    if writing and type(rule) is Constrained:
        raise ValueError(
            f"{writing}: expected a rule in least squares, found constrained, whose values are "
            f"exact: with {writing} none would be; write rlsedit+{writing} or kis.ridge(weight), "
            "or edit within other directions alone, kis.Restricted(space, within)"
        )


def check_free_of_blocks(rule: Rule, filters: Sequence[Filter]) -> None:
    """Raises ValueError if edits depend on blocks, so that some do not follow from others."""
    names = [rule.name] if rule.by_blocks else []
    names += [each.name for each in filters if not each.carried]
    if names:
        raise ValueError(
            f"rule: expected one whose edits follow from what was asked alone, found {names[0]}, "
            "which meets the kernel as the blocks before left it; undo its last edits instead, or "
            "edit the facts that are left anew"
        )
