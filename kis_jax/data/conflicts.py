"""Facts that ask one question: told twice, or with two answers."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

from kis_jax.data.facts import Fact

# Words of four letters or more in which questions about different things agree.
_ASKING = frozenset(
    "what when where which whose whom does that this have been were with from".split()
)
_MOST_COMPARED = 50  # facts of one subject


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
    is given). Case and blanks at the ends do not count, nor does which alias of an object is named.

    Args:
      facts: in the order in which they are to be edited; `target_new` is what each asks for.

    Returns:
      Contradictions and repetitions, in the order of their second facts, each told against the
      first fact that asked the question; where one that asked its prompt is repeated and one that
      asked its relation contradicted, or the other way round, against the one contradicted.

    Examples:
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
        told = [(not _answers(fact).isdisjoint(_answers(facts[j])), j) for j in asked]
        if told:
            same, j = min(told)
            found.append(Conflict(j, i, not same))
    return found


def suspected(facts: Sequence[Fact]) -> list[Conflict]:
    """Pairs that may well ask one question in other words, which `conflicts` does not tell.

    Two facts of one subject, of no relation or of one that is not the same, whose prompts share
    half of the words of the shorter one, small ones left out. A reader decides: "Where was Ann
    born?" and "When was Ann born?" are such a pair too.

    Args:
      facts: in their order.

    Returns:
      Each fact with the first such one before it, in the order of the second.

    Examples:
      >>> suspected([
      ...     Fact(0, "Which company made {}?", "D463", target_new="Alco"),
      ...     Fact(1, "By which company is {} manufactured?", "D463", target_new="Baldwin"),
      ... ])
      [Conflict(first=0, second=1, contradiction=True)]
    """
    told = {(one.first, one.second) for one in conflicts(facts)}
    places: dict[str, list[int]] = {}
    words: dict[int, set[str]] = {}
    found = []
    for i, fact in enumerate(facts):
        if not fact.subject.strip():
            continue
        words[i] = {word for word in re.findall(r"\w{4,}", _plain(fact.prompt))} - _ASKING
        others = places.setdefault(_plain(fact.subject), [])
        for j in others[:_MOST_COMPARED]:
            shared, least = words[i] & words[j], min(len(words[i]), len(words[j]))
            related = fact.relation and fact.relation == facts[j].relation
            if (j, i) not in told and not related and 2 * len(shared) >= max(least, 1):
                same = not _answers(fact).isdisjoint(_answers(facts[j]))
                found.append(Conflict(j, i, not same))
                break
        others.append(i)
    return found


def _questions(fact: Fact) -> list[tuple[str, str, str]]:
    subject = _plain(fact.subject)
    asked = [(subject, "prompt", _plain(fact.prompt))]
    related = subject and fact.relation
    return [*asked, (subject, "relation", fact.relation)] if related else asked


def _answers(fact: Fact) -> set[str]:
    return {_plain(text) for text in (fact.target_new, *fact.new_aliases)}


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()
