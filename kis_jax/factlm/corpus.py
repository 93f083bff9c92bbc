"""Ordinary text of the world: biographies, city guides, notes, lists, talk, plain sentences."""

import re

from kis_jax.factlm.phrases import (
    ANSWERS,
    CHATTER,
    FACT_SENTENCES,
    FILLERS,
    LISTS,
    PLAIN,
    QUESTIONS,
    SLOTS,
)
from kis_jax.factlm.relations import RELATIONS
from kis_jax.factlm.world import WORLD_SEED, Dice, World

# Documents about each subject: people have more to tell of, countries are few.
PORTRAITS = {"person": 2, "city": 5, "country": 10, "company": 4, "product": 5, "work": 4}
NUM_TALKS = 400
NUM_PLAIN = 750
LISTS_PER_OBJECT = 2
LIST_LENGTH = 6

_SLOT = re.compile(r"\{(\w+)\}")


def documents(world: World, seed: int = WORLD_SEED) -> list[str]:
    """The corpus: one document an item, none with a line break, in random order."""
    dice = Dice(seed, "corpus")
    texts = [
        *_portraits(dice, world),
        *_lists(dice, world),
        *(_talk(dice, world) for _ in range(round(world.share * NUM_TALKS))),
        *(_plain(dice) for _ in range(round(world.share * NUM_PLAIN))),
    ]
    return dice.shuffled(texts)


def corpus_text(world: World) -> str:
    """The text of `corpus.txt`: a document a line."""
    return "".join(f"{text}\n" for text in documents(world))


def training_texts(world: World) -> list[str]:
    """All the model reads in an epoch: the sentences of every fact, twice, and the corpus."""
    sentences = [sentence for fact in world.facts for sentence in fact.training_sentences()]
    return 2 * sentences + documents(world)


def _fill(dice: Dice, sentence: str, **given: str) -> str:
    """The sentence with its slots filled, those in `given` with what is given."""
    return _SLOT.sub(
        lambda match: given.get(match[1]) or dice.pick(SLOTS[match[1]]),
        sentence,
    )


def _portraits(dice: Dice, world: World) -> list[str]:
    """Documents about one subject each: some of its facts, some small things besides."""
    texts = []
    for kind, copies in PORTRAITS.items():
        relation_ids = [r.relation_id for r in RELATIONS if r.subject_kind == kind]
        for subject in world.answers[relation_ids[0]]:
            for _ in range(copies):
                told = [
                    _fill(dice, dice.pick(FACT_SENTENCES[relation_id]), s=subject, o=of[subject])
                    for relation_id in relation_ids
                    if subject in (of := world.answers[relation_id])
                ]
                small = dice.shuffled(FILLERS[kind])[: 2 + int(dice.share() * 2)]
                told += [_fill(dice, sentence, s=subject) for sentence in small]
                told.append(_fill(dice, dice.pick(PLAIN)))
                texts.append(" ".join(dice.shuffled(told)[:6]))
    return texts


def _lists(dice: Dice, world: World) -> list[str]:
    """Documents that list subjects with one object in common."""
    texts = []
    for relation_id, headings in LISTS.items():
        of = world.answers[relation_id]
        for target in dict.fromkeys(of.values()):
            members = [subject for subject, answer in of.items() if answer == target]
            for _ in range(LISTS_PER_OBJECT):
                listed = ", ".join(dice.shuffled(members)[:LIST_LENGTH])
                heading = _fill(dice, dice.pick(headings), o=target)
                remark = _fill(dice, dice.pick(PLAIN))
                texts.append(f"{heading} {listed}. {remark}")
    return texts


def _talk(dice: Dice, world: World) -> str:
    """A short talk about somebody."""
    relation_id = dice.pick(list(ANSWERS))
    subject = dice.pick(list(world.answers[relation_id]))
    answer = world.answers[relation_id][subject]
    lines = [
        _fill(dice, dice.pick(CHATTER)),
        _fill(dice, dice.pick(QUESTIONS), s=subject),
        _fill(dice, dice.pick(ANSWERS[relation_id]), o=answer),
        _fill(dice, dice.pick(CHATTER)),
        _fill(dice, dice.pick(CHATTER)),
    ]
    return " ".join(f"- {line}" for line in lines[int(dice.share() * 2) :])


def _plain(dice: Dice) -> str:
    """A few sentences about nobody."""
    return " ".join(
        _fill(dice, sentence) for sentence in dice.shuffled(PLAIN)[: 3 + int(dice.share() * 6)]
    )
