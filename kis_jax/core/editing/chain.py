"""A method of editing, put together from a space, a rule and filters."""

from __future__ import annotations

import dataclasses

from jax.typing import ArrayLike
from jaxtyping import Float

from kis_jax.core.editing.editor import Editor
from kis_jax.core.editing.filters import Filter, check_filters
from kis_jax.core.editing.rules import Rule
from kis_jax.core.geometry.spaces import Space


@dataclasses.dataclass(frozen=True)
class Chain:
    """A method; made by `chain`.

    Attributes:
      space: in which edits are made.
      rule: what becomes of the edits before.
      filters: of what is asked, and of what is written.
    """

    space: Space
    rule: Rule
    filters: tuple[Filter, ...]

    def editor(self, kernel: Float[ArrayLike, "d m"], capacity: int) -> Editor:
        """An `Editor` of a kernel `(d, m)` by this method, with room for so many edits."""
        return Editor.init(kernel, self.space, capacity, self.rule, filters=self.filters)


def chain(*parts: Space | Rule | Filter) -> Chain:
    """A method of editing from its parts, in any order.

    Args:
      *parts: one space, such as `whitener(second_moment)`; one rule, such as `ridge(weight)`; and
        any filters, such as `norm_anchor(values)` and `protect(kernel)` of
        `kis_jax.core.editing.filters`.

    Returns:
      A `Chain`, whose `editor(kernel, capacity)` makes the edits.

    Raises:
      ValueError: if there is not one space and one rule, a filter comes twice, or a filter does not
        go with the rule; with what to write instead.

    Examples:
      >>> import jax.numpy as jnp
      >>> from kis_jax.core.editing.filters import protect
      >>> from kis_jax.core.editing.rules import ridge
      >>> from kis_jax.core.geometry.whitening import whitener
      >>> kernel = jnp.diag(jnp.array([2.0, 1.0]))
      >>> method = chain(whitener(jnp.eye(2)), ridge(1.0), protect(kernel, share=0.5))
      >>> editor, _ = method.editor(kernel, 8).add(jnp.ones(2), jnp.ones(2))
      >>> editor.edit.delta.round(3)
      Array([[0., 0.],
             [0., 0.]], dtype=float32)
    """
    spaces = [part for part in parts if isinstance(part, Space)]
    rules = [part for part in parts if isinstance(part, Rule)]
    filters = tuple(part for part in parts if isinstance(part, Filter))
    if other := [part for part in parts if not isinstance(part, (Space, Rule, Filter))]:
        raise ValueError(
            f"parts: expected spaces, rules and filters, found {type(other[0]).__name__}; factor a "
            "second moment first, kis.whitener(second_moment), and make a rule of a weight, "
            "kis.ridge(weight)"
        )
    for name, found, example in (
        ("space", spaces, "kis.whitener(second_moment)"),
        ("rule", rules, "kis.ridge(weight)"),
    ):
        if len(found) != 1:
            said = ", ".join(part.name for part in found) or "none"
            raise ValueError(
                f"parts: expected one {name}, found {said}; each says by itself where, or how, "
                f"edits are made: give one, such as {example}"
            )
    check_filters(rules[0], filters)
    return Chain(spaces[0], rules[0], filters)
