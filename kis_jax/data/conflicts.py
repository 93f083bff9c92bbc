"""Facts that ask one question: told twice, or with two answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from kis_jax.data.facts import Fact


@dataclasses.dataclass(frozen=True)
class Conflict:
    """Two facts that ask one question.

    Attributes:
      first: index of the earlier fact.
      second: index of the later one.
      contradiction: whether they ask for two objects; else one is a repetition of the other.
    """

    first: int
    second: int
    contradiction: bool


def conflicts(facts: Sequence[Fact]) -> list[Conflict]:
    """Each fact that asks what an earlier one asked, with the first that did.

    Two facts ask one question if they have one subject, and one prompt or one relation (where that
    is given). Case and blanks at the ends do not count.

    Args:
      facts: in the order in which they are to be edited; `target_new` is what each asks for.

    Returns:
      Contradictions and repetitions, in the order of their second facts, each told against the
      first fact that asked the question; where one that asked its prompt is repeated and one that
      asked its relation contradicted, or the other way round, against the one contradicted.

    Example:
      >>> conflicts([
      ...     Fact(0, "{} speaks", "Vera Holm", target_new="Orvish", relation="P103"),
      ...     Fact(1, "The language of {} is", "Vera Holm", target_new="Aldric", relation="P103"),
      ... ])
      [Conflict(first=0, second=1, contradiction=True)]
    """
    first: dict[tuple[str, str, str], int] = {}
    found = []
    for i, fact in enumerate(facts):
        asked = {first.setdefault(question, i) for question in _questions(fact)} - {i}
        told = [(_plain(fact.target_new) == _plain(facts[j].target_new), j) for j in asked]
        if told:
            same, j = min(told)
            found.append(Conflict(j, i, not same))
    return found


def _questions(fact: Fact) -> list[tuple[str, str, str]]:
    subject = _plain(fact.subject)
    asked = [(subject, "prompt", _plain(fact.prompt))]
    return [*asked, (subject, "relation", fact.relation)] if fact.relation else asked


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()
