"""Facts that cannot all be edited: those that contradict, and those that repeat, one another."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from kis_jax.data.facts import Fact


def contradictions(facts: Sequence[Fact]) -> list[tuple[int, int]]:
    """Pairs of facts that ask for two objects where there is one question.

    One question is one subject with one prompt, or one subject with one relation, where that is
    given. Blanks at the ends of a name do not count.

    Args:
      facts: whose `target_new` is asked for.

    Returns:
      Pairs of places, the earlier one first; each fact is held against the first of its question
      and of every other answer to it, so that n facts give at most n pairs and not n squared.

    Example:
      >>> facts = [Fact(i, "{} speaks", "Vera Holm", target_new=new) for i, new in
      ...          enumerate(["Danish", "Latin", "Danish"])]
      >>> contradictions(facts)
      [(0, 1)]
    """
    first: dict[Hashable, dict[str, int]] = {}
    pairs = set()
    for place, fact in enumerate(facts):
        for question in _questions(fact):
            answers = first.setdefault(question, {})
            if answers and fact.target_new.strip() not in answers:
                pairs.add((min(answers.values()), place))
            answers.setdefault(fact.target_new.strip(), place)
    return sorted(pairs)


def first_of_request(facts: Sequence[Fact]) -> list[int | None]:
    """For each fact the first one that asks for the very same edit; None if it is that one."""
    first: dict[Hashable, int] = {}
    places = [
        first.setdefault((fact.subject.strip(), fact.prompt, fact.target_new.strip()), place)
        for place, fact in enumerate(facts)
    ]
    return [None if place == i else place for i, place in enumerate(places)]


def _questions(fact: Fact) -> list[Hashable]:
    subject = fact.subject.strip()
    questions: list[Hashable] = [("prompt", subject, fact.prompt)]
    if fact.relation:
        questions.append(("relation", subject, fact.relation))
    return questions
