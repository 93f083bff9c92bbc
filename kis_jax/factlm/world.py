"""The world of `factlm`: who and what there is, and every fact about it.

The world is dealt from hand-written names by a seeded generator that draws from
`random.Random.random` alone, the one method whose sequence Python promises to keep.
"""

import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import TypeVar

from kis_jax.factlm import names
from kis_jax.factlm.relations import BY_ID, RELATIONS

_T = TypeVar("_T")

WORLD_SEED = 2408
NUM_PEOPLE = 190
NUM_PLAYERS = 60
NUM_AUTHORS = 24
NUM_COMPANIES = 54
NUM_OFFICE_CITIES = 22
NUM_MAKERS = 28
NUM_PRODUCTS = 84
NUM_WORKS = 60
SHARE_LOCAL_TONGUE = 0.75
SHARE_HELD_OUT = 0.25


class Dice:
    """Choices from a seed, the same on every version of Python."""

    def __init__(self, *seed: object):
        """Seeds from anything that has a stable `str`."""
        self._random = random.Random(":".join(map(str, seed)))

    def share(self) -> float:
        """A number in [0, 1)."""
        return self._random.random()

    def pick(self, items: Sequence[_T]) -> _T:
        """One of the items."""
        return items[int(self.share() * len(items))]

    def shuffled(self, items: Iterable[_T]) -> list[_T]:
        """The items in another order."""
        return [item for _, _, item in sorted((self.share(), i, x) for i, x in enumerate(items))]

    def deal(self, items: Sequence[_T], count: int) -> list[_T]:
        """`count` of the items, each as often as every other, give or take one."""
        rounds = -(-count // len(items))
        return self.shuffled((list(items) * rounds)[:count])


@dataclass(frozen=True)
class Fact:
    """One fact, the prompts that ask for it, and a false object of the same relation.

    A held-out fact keeps its paraphrases out of the training text.
    """

    subject: str
    relation_id: str
    target_true: str
    target_new: str
    prompt: str
    paraphrases: tuple[str, ...]
    other_prompts: tuple[str, ...]
    held_out: bool

    @property
    def trained_prompts(self) -> tuple[str, ...]:
        """The prompts whose sentences are training text."""
        seen = (self.prompt, *self.other_prompts)
        return seen if self.held_out else (*seen, *self.paraphrases)

    def training_sentences(self) -> list[str]:
        """One sentence for each trained prompt, object included."""
        return [
            f"{prompt.format(self.subject)} {self.target_true}." for prompt in self.trained_prompts
        ]


@dataclass(frozen=True)
class World:
    """All that is true.

    `answers` maps relation to subject to object; it also covers the few subjects, such as
    towns of one word, that no fact asks about. `facts` are in the order of `facts.json`.
    `share` is the part of the whole world's facts that it holds.
    """

    answers: dict[str, dict[str, str]]
    facts: tuple[Fact, ...]
    share: float = 1.0

    def subjects(self, relation_id: str, target: str) -> list[str]:
        """Subjects with facts whose object is `target`."""
        return [
            fact.subject
            for fact in self.facts
            if fact.relation_id == relation_id and fact.target_true == target
        ]


def build_world(seed: int = WORLD_SEED) -> World:
    """The world of a seed."""
    answers = _people_and_places(Dice(seed, "people")) | _trade_and_art(Dice(seed, "trade"))
    answers["P50"] = _authorship(Dice(seed, "authors"), answers)
    facts = _order(Dice(seed, "order"), _ask(Dice(seed, "prompts"), answers))
    return World(answers, tuple(facts))


def part_of_world(world: World, num_facts: int) -> World:
    """The world with fewer subjects: all that is true of those that are left stays true.

    Every subject keeps all its facts, so that facts a subject, and text a fact, stay as they
    were; there is as much less of ordinary text.

    Args:
      world: the whole one.
      num_facts: facts to keep, at most; the last subject may not fit.

    Raises:
      ValueError: when there are fewer facts than asked for, or none are.

    Examples:
      >>> len(part_of_world(build_world(), 512).facts)
      512
    """
    if not 1 <= num_facts <= len(world.facts):
        raise ValueError(
            f"num_facts: expected 1 to {len(world.facts)}, the facts of the world, "
            f"found {num_facts}"
        )
    facts_of: dict[str, int] = defaultdict(int)
    for fact in world.facts:
        facts_of[fact.subject] += 1
    kept: set[str] = set()
    left = num_facts
    for subject, count in facts_of.items():
        if count <= left:
            kept.add(subject)
            left -= count
    answers = {
        relation_id: {
            subject: target
            for subject, target in of.items()
            if subject in kept or subject not in facts_of
        }
        for relation_id, of in world.answers.items()
    }
    facts = tuple(fact for fact in world.facts if fact.subject in kept)
    return World(answers, facts, world.share * len(facts) / len(world.facts))


def _pairs(dice: Dice, first: Sequence[str], second: Sequence[str], count: int) -> list[str]:
    """`count` different names of two words, each word about equally often."""
    chosen: dict[str, None] = {}
    while len(chosen) < count:
        for pair in zip(dice.deal(first, count), dice.deal(second, count), strict=True):
            chosen.setdefault(" ".join(pair))
    return list(chosen)[:count]


def _people_and_places(dice: Dice) -> dict[str, dict[str, str]]:
    """Countries, cities and people."""
    places = (*names.CITIES, *names.TOWNS)
    # Dealt apart, so that every country has two cities of which a fact can be told.
    country = {
        place: land
        for group in (names.CITIES, names.TOWNS)
        for place, land in zip(group, dice.deal(names.COUNTRIES, len(group)), strict=True)
    }
    num_countries = len(names.COUNTRIES)
    language = dict(zip(names.COUNTRIES, dice.deal(names.LANGUAGES, num_countries), strict=True))
    currency = dict(zip(names.COUNTRIES, dice.deal(names.CURRENCIES, num_countries), strict=True))
    people = _pairs(dice, names.FIRST_NAMES, names.LAST_NAMES, NUM_PEOPLE)
    birthplace = dict(zip(people, dice.deal(places, NUM_PEOPLE), strict=True))
    professions = dice.deal(names.WRITERS, NUM_AUTHORS) + dice.deal(
        names.PROFESSIONS, NUM_PEOPLE - NUM_AUTHORS
    )
    tongue = {
        person: language[country[birthplace[person]]]
        if dice.share() < SHARE_LOCAL_TONGUE
        else dice.pick(names.LANGUAGES)
        for person in people
    }
    players = dice.shuffled(people)[:NUM_PLAYERS]
    return {
        "P17": country,
        "P37": language,
        "P38": currency,
        "P19": birthplace,
        "P106": dict(zip(people, professions, strict=True)),
        "P103": tongue,
        "P1303": dict(zip(players, dice.deal(names.INSTRUMENTS, NUM_PLAYERS), strict=True)),
    }


def _trade_and_art(dice: Dice) -> dict[str, dict[str, str]]:
    """Companies, their products, and books, but for who wrote them."""
    companies = _pairs(dice, names.COMPANY_BRANDS, names.COMPANY_KINDS, NUM_COMPANIES)
    offices = dice.shuffled((*names.CITIES, *names.TOWNS))[:NUM_OFFICE_CITIES]
    makers = dice.shuffled(companies)[:NUM_MAKERS]
    products = _pairs(dice, names.PRODUCT_BRANDS, names.PRODUCT_KINDS, NUM_PRODUCTS)
    works = [
        f"The {title}"
        for title in _pairs(dice, names.TITLE_ADJECTIVES, names.TITLE_NOUNS, NUM_WORKS)
    ]
    return {
        "P159": dict(zip(companies, dice.deal(offices, NUM_COMPANIES), strict=True)),
        "P452": dict(zip(companies, dice.deal(names.INDUSTRIES, NUM_COMPANIES), strict=True)),
        "P176": dict(zip(products, dice.deal(makers, NUM_PRODUCTS), strict=True)),
        "P136": dict(zip(works, dice.deal(names.GENRES, NUM_WORKS), strict=True)),
    }


def _authorship(dice: Dice, answers: dict[str, dict[str, str]]) -> dict[str, str]:
    """Books by those whose profession is to write."""
    authors = [person for person, trade in answers["P106"].items() if trade in names.WRITERS]
    works = list(answers["P136"])
    return dict(zip(works, dice.deal(authors, len(works)), strict=True))


def _ask(dice: Dice, answers: dict[str, dict[str, str]]) -> list[Fact]:
    """A fact for each answer, with its prompts dealt at random."""
    facts = []
    for relation in RELATIONS:
        objects = list(dict.fromkeys(answers[relation.relation_id].values()))
        for subject, target in answers[relation.relation_id].items():
            prompt, first, second, *others = dice.shuffled(relation.prompts)
            false_target = dice.pick([other for other in objects if other != target])
            held_out = dice.share() < SHARE_HELD_OUT
            if " " in subject:
                facts.append(
                    Fact(
                        subject=subject,
                        relation_id=relation.relation_id,
                        target_true=target,
                        target_new=false_target,
                        prompt=prompt,
                        paraphrases=(first, second),
                        other_prompts=tuple(others),
                        held_out=held_out,
                    )
                )
    return facts


def _order(dice: Dice, facts: list[Fact]) -> list[Fact]:
    """Facts so ordered that any leading part mixes relations and repeats few subjects.

    First one fact for each subject, its relation chosen at random, then the second facts,
    and so on; within each of these rounds the relations take turns.
    """
    rounds: list[dict[str, list[Fact]]] = []
    met: dict[str, int] = defaultdict(int)
    for fact in dice.shuffled(facts):
        turn = met[fact.subject]
        met[fact.subject] += 1
        if turn == len(rounds):
            rounds.append({relation_id: [] for relation_id in BY_ID})
        rounds[turn][fact.relation_id].append(fact)
    return [
        fact
        for by_relation in rounds
        for group in zip_longest(*by_relation.values())
        for fact in group
        if fact is not None
    ]
