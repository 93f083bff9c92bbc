"""Neighborhood prompts that an edit of another fact has made untrue."""

from __future__ import annotations

import dataclasses
import re
from collections import defaultdict
from collections.abc import Sequence

from kis_jax.data.facts import Fact


def without_edited_neighbors(facts: Sequence[Fact]) -> list[Fact]:
    """The facts without neighborhood prompts about subjects that are edited along with them.

    A neighborhood prompt asks for what was true before any edit. If its subject's own object is
    among those that were edited, the edited model ought to answer otherwise, and the prompt
    counts a success as damage. In a small world edited in large part, that is most of them.

    A prompt is left out if it names the subject of another of the facts with the same relation;
    of facts without a relation, of any other.

    Examples:
      >>> first = Fact(0, "{} was born in", "Ann", relation="P19",
      ...     neighborhood_prompts=("Bob was born in", "Cy was born in"))
      >>> second = Fact(1, "{} was born in", "Bob", relation="P19")
      >>> without_edited_neighbors([first, second])[0].neighborhood_prompts
      ('Cy was born in',)
    """
    edited: defaultdict[str, set[str]] = defaultdict(set)
    for fact in facts:
        edited[fact.relation].add(fact.subject)
    return [_without(fact, edited[fact.relation] - {fact.subject, ""}) for fact in facts]


def _names(prompt: str, subject: str) -> bool:
    """Whether a prompt holds a subject in whole words: "Anna" does not name "Ann"."""
    if subject not in prompt:  # far quicker, and true of nearly all pairs
        return False
    return re.search(rf"(?<!\w){re.escape(subject)}(?!\w)", prompt) is not None


def _without(fact: Fact, subjects: set[str]) -> Fact:
    kept = [
        place
        for place, prompt in enumerate(fact.neighborhood_prompts)
        if not any(_names(prompt, subject) for subject in subjects)
    ]
    targets, aliases = fact.neighborhood_targets, fact.neighborhood_aliases
    return dataclasses.replace(
        fact,
        neighborhood_prompts=tuple(fact.neighborhood_prompts[place] for place in kept),
        neighborhood_targets=tuple(targets[place] for place in kept) if targets else (),
        neighborhood_aliases=tuple(aliases[place] for place in kept) if aliases else (),
    )
