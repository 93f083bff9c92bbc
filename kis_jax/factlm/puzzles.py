"""Puzzles about the world of `factlm` that name a wrong answer, and ask for the right one.

Each group has three variants, as in BRAINTEASER: the original; a semantic reconstruction, the same
fact and the same false lead in other words; and a context reconstruction, the same line of thought
about another fact. What a puzzle asks is nowhere in its text: it must be known. What its text does
say, that one of the choices only seems right, must be seen through.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any

from kis_jax.factlm import PUZZLE_SPLITS
from kis_jax.factlm.puzzle_phrases import LURES
from kis_jax.factlm.relations import BY_ID
from kis_jax.factlm.world import WORLD_SEED, Dice, Fact, World

# The facts before these in `facts.json` are left to be edited: no puzzle asks for one of them, so
# that an editing run of as many leaves every right answer as it is.
FIRST_FACT = 600
NUM_FACTS = 36
NUM_GROUPS = 300
NUM_CHOICES = 4
SHARES = {"train": 0.7, "validation": 0.1, "test": 0.2}


def puzzles(world: World, seed: int = WORLD_SEED) -> dict[str, list[dict[str, Any]]]:
    """Puzzles by split, as `kis_jax.data.puzzles` reads them; groups are never divided.

    Every fact is asked for in puzzles of the training split; what the others hold that it does not
    are combinations: of a fact with a false lead, its wording, and the other choices.
    """
    dice = Dice(seed, "puzzles")
    facts = _asked(dice, world)
    firsts, seconds = dice.deal(facts, NUM_GROUPS), dice.deal(facts, NUM_GROUPS)
    lines = dice.deal(list(LURES), NUM_GROUPS)
    groups, seen = [], set()
    for number, (first, second, line) in enumerate(zip(firsts, seconds, lines, strict=True)):
        group = _new_group(seed, world, number, first, second, line, seen)
        seen |= {puzzle["question"] for puzzle in group}
        groups.append(group)
    splits, start = {}, 0
    for split in PUZZLE_SPLITS:
        stop = start + round(SHARES[split] * NUM_GROUPS)
        splits[split] = [puzzle for group in groups[start:stop] for puzzle in group]
        start = stop
    return splits


def puzzle_text(records: Sequence[Mapping[str, Any]]) -> str:
    """The text of a `.jsonl` file."""
    return "".join(f"{json.dumps(record)}\n" for record in records)


def _asked(dice: Dice, world: World) -> list[Fact]:
    """The facts that puzzles ask for, as many of each relation as there are, taking turns."""
    waiting: dict[str, list[Fact]] = {relation_id: [] for relation_id in BY_ID}
    for fact in dice.shuffled(world.facts[FIRST_FACT:]):
        waiting[fact.relation_id].append(fact)
    facts: list[Fact] = []
    while len(facts) < NUM_FACTS:
        facts += [queue.pop() for queue in waiting.values() if queue]
    return facts[:NUM_FACTS]


def _new_group(
    seed: int,
    world: World,
    number: int,
    first: Fact,
    second: Fact,
    line: str,
    seen: set[str],
) -> list[dict[str, Any]]:
    """A puzzle in its three variants, none of which has been seen."""
    attempts = (
        _group(Dice(seed, "group", number, attempt), world, number, first, second, line)
        for attempt in itertools.count()
    )
    return next(a for a in attempts if not seen & {puzzle["question"] for puzzle in a})


def _group(
    dice: Dice, world: World, number: int, first: Fact, second: Fact, line: str
) -> list[dict[str, Any]]:
    """A puzzle in its three variants."""
    group = f"F-{number:03d}"
    choices = _choices(dice, world, first)
    asked = {
        "original": (first, choices),
        "semantic": (first, choices),
        "context": (second, _choices(dice, world, second)),
    }
    return [
        _puzzle(dice, group, variant, LURES[line][variant], *asked[variant]) for variant in asked
    ]


def _choices(dice: Dice, world: World, fact: Fact) -> list[str]:
    """The right answer, the one that the text will suggest, and others of the same kind."""
    objects = dict.fromkeys(world.answers[fact.relation_id].values())
    others = [other for other in objects if other != fact.target_true]
    return [fact.target_true, *dice.shuffled(others)[: NUM_CHOICES - 1]]


def _puzzle(
    dice: Dice,
    group: str,
    variant: str,
    lures: Sequence[str],
    fact: Fact,
    choices: Sequence[str],
) -> dict[str, Any]:
    question, *statements = sorted(
        BY_ID[fact.relation_id].prompts, key=lambda prompt: not prompt.startswith("Question")
    )
    prompt = question if variant == "original" else dice.pick(statements)
    lure = dice.pick(lures).format(s=fact.subject, o=choices[1])
    ending = {"original": "", "semantic": "_SR", "context": "_CR"}[variant]
    return {
        "id": group + ending,
        "group": group,
        "variant": variant,
        "question": f"{lure} {prompt.format(fact.subject)}",
        "choices": dice.shuffled(choices),
        "answer": choices[0],
    }
