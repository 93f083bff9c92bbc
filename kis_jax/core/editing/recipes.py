"""Methods of editing by name: a space, a rule, and filters, put together with "+"."""

from __future__ import annotations

import dataclasses
import difflib
import functools
from collections.abc import Collection, Iterable
from typing import Literal

Where = Literal["text", "free", "within", "keys"]
"""C^-1; the null space of C; C^-1 within it; keys as they are."""


@dataclasses.dataclass(frozen=True)
class Base:
    """What a method is before filters.

    Attributes:
      rule: as `named_rule` knows it; None for a method that is no closed form of target values.
      weight: the setting that gives the rule its weight; None for a rule without.
      where: the space of its edits.
      together: whether target values are sought as MEMIT does, for facts that are solved together.
      rising: whether the weight rises with the damage done.
      gradients: whether it writes along gradients, and no target values are sought.
    """

    rule: str | None
    weight: str | None = None
    where: Where = "text"
    together: bool = False
    rising: bool = False
    gradients: bool = False


BASES: dict[str, Base] = {
    "rome": Base("sequential"),
    "sequential": Base("sequential"),
    "constrained": Base("constrained"),
    "batch": Base("batch", "weight", together=True),
    "null-space": Base("null_space", "null_ridge", "free", together=True),
    "finetune": Base(None),
    "batch-anew": Base("anew", "weight", together=True),
    "lyaplock": Base("batch", "weight", together=True, rising=True),
    "evoedit": Base("shrinking", "null_ridge", "free", together=True),
    "betaedit": Base("batch", "weight", "within", together=True),
    "ultraedit": Base(None, gradients=True),
    "stableedit": Base(None, gradients=True),
}
"""Values of "rome" are found one after another; else "rome" is "sequential"."""

ALIASES = {
    "emmet": "constrained",
    "memit": "batch",
    "rlsedit": "batch",
    "alphaedit": "null-space",
}
"""The names that the literature has for some of them; that of RLSEdit with its l = 0."""

FILTERS = ("anchor", "protect", "sphere")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A method, taken apart.

    Attributes:
      name: as ledgers have it.
      base: what it is before filters.
      kind: the name of that.
      filters: their names, in order.
    """

    name: str
    kind: str
    base: Base
    filters: tuple[str, ...] = ()

    @property
    def writes(self) -> tuple[str, ...]:
        """The filters of what is written."""
        return tuple(name for name in self.filters if name != "anchor")


@functools.cache
def recipe(method: str) -> Recipe:
    """A method by its name, or by one that the literature has for it.

    Args:
      method: such as "batch", "memit" or "alphaedit+anchor+protect".

    Returns:
      A `Recipe`, whose name has the parts in one order: the same method has one name.

    Raises:
      ValueError: if a part is unknown, there are two rules or none, or a filter lacks what it
        needs; with what to write instead.

    Examples:
      >>> recipe("alphaedit+protect+anchor").name
      'null-space+anchor+protect'
      >>> recipe("batch+alphaedit")
      Traceback (most recent call last):
      ValueError: method: expected one rule, found two in 'batch+alphaedit', ...
    """
    parts = [part.strip() for part in method.split("+")]
    known = (*BASES, *ALIASES, *FILTERS)
    for part in parts:
        if part not in known:
            near = difflib.get_close_matches(part, known, 1, 0.0)[0]
            raise ValueError(
                f"method: expected one of {', '.join((*BASES, *ALIASES))}, and after a + any of "
                f"{', '.join(FILTERS)}, found {part!r}; the nearest is {near}"
            )
    rules = [part for part in parts if part not in FILTERS]
    filters = tuple(name for name in FILTERS if name in parts)
    if len(rules) > 1:
        raise ValueError(
            f"method: expected one rule, found two in {method!r}, {rules[0]} and {rules[1]}; each "
            f"says by itself what becomes of earlier edits: write {'+'.join((rules[0], *filters))} "
            f"or {'+'.join((rules[1], *filters))}"
        )
    if not rules:
        raise ValueError(
            f"method: expected a rule and its filters, found filters alone in {method!r}; write "
            f"rlsedit+{'+'.join(filters)}"
        )
    kind = ALIASES.get(rules[0], rules[0])
    base = BASES[kind]
    if filters and base.rule is None:
        raise ValueError(
            f"{filters[0]}: expected target values and a closed form, found {rules[0]}, which has "
            f"neither; write rlsedit+{'+'.join(filters)}"
        )
    found = Recipe("+".join((kind, *filters)), kind, base, filters)
    if found.writes and base.rule in ("sequential", "constrained"):
        what = "overwrite each other" if base.rule == "sequential" else "are exact"
        raise ValueError(
            f"{found.writes[0]}: expected a rule in least squares, found {rules[0]}, whose values "
            f"{what}: what is taken off one edit no other makes good; write "
            f"rlsedit+{'+'.join(filters)}"
        )
    if len(found.writes) > 1:
        raise ValueError(
            "protect, sphere: expected one of the two, which protect directions of one kernel, "
            f"found both in {method!r}; write {'+'.join((kind, *filters[:-1]))}"
        )
    return found


def numbers_of(method: str) -> tuple[str, ...]:
    """The settings that a method goes by, beside those of the search for target values.

    Examples:
      >>> numbers_of("alphaedit+anchor")
      ('null_space', 'null_ridge', 'units', 'anchor')
    """
    found = recipe(method)
    names = ("weight",) if found.base.weight == "weight" else ()
    names += ("null_space", "null_ridge") if found.base.where in ("free", "within") else ()
    names += ("units",) if names else ()
    names += ("budget",) if found.base.rising else ()
    names += ("gradient_step", "gradient_ridge") if found.base.gradients else ()
    names += ("anchor",) if "anchor" in found.filters else ()
    return names + (("protected",) if "protect" in found.filters else ())


def methods_named(
    names: Iterable[str], among: Collection[str] = tuple(BASES), others: str = ""
) -> tuple[str, ...]:
    """The methods of these names, each once, in their order.

    Args:
      names: as a user has them.
      among: bases of the methods that come into question.
      others: for the message: why no others.

    Raises:
      ValueError: as `recipe`, or if there are none, or one has another base.

    Examples:
      >>> methods_named(["emmet", "constrained", "rlsedit+anchor"])
      ('constrained', 'batch+anchor')
    """
    found = [recipe(name) for name in names]
    wrong = [repr(one.name) for one in found if one.kind not in among]
    if wrong or not found:
        raise ValueError(
            f"methods: expected some of {', '.join(among)}, found {(wrong or ['none'])[0]}{others}"
        )
    return tuple(dict.fromkeys(one.name for one in found))
