"""The facts of the world as CounterFact records."""

import json
from typing import Any

from kis_jax.factlm.relations import BY_ID
from kis_jax.factlm.world import Dice, Fact, World

NUM_NEIGHBORS = 10
NUM_ATTRIBUTES = 5
FREE_PROMPTS = {
    "person": (
        "{} is known for",
        "Friends of {} say that",
        "A day in the life of {} begins with",
    ),
    "city": (
        "Visitors to {} should see",
        "The streets of {} are",
        "In the market of {} they sell",
    ),
    "country": (
        "The history of {} begins with",
        "Travellers in {} should know that",
        "The people of {} are proud of",
    ),
    "company": (
        "The workers of {} say that",
        "Last year {} announced",
        "The founders of {} wanted",
    ),
    "product": (
        "Those who own a {} say that",
        "The first {} was sold",
        "To clean a {}, begin with",
    ),
    "work": (
        "The story of {} begins when",
        "Readers of {} remember",
        "The last page of {} tells",
    ),
}


def record(world: World, fact: Fact, case_id: int) -> dict[str, Any]:
    """One fact in CounterFact's layout.

    One field is added: `paraphrases_held_out`, true where the model never saw the two
    paraphrase prompts filled with this subject. Ids are the strings' own slugs.
    """
    dice = Dice("record", case_id)
    relation = BY_ID[fact.relation_id]
    openings = (*FREE_PROMPTS[relation.subject_kind], *fact.other_prompts[:2])
    return {
        "case_id": case_id,
        "pararel_idx": case_id,
        "requested_rewrite": {
            "prompt": fact.prompt,
            "relation_id": fact.relation_id,
            "subject": fact.subject,
            "target_new": {"id": _slug(fact.target_new), "str": fact.target_new},
            "target_true": {"id": _slug(fact.target_true), "str": fact.target_true},
        },
        "paraphrase_prompts": [prompt.format(fact.subject) for prompt in fact.paraphrases],
        "paraphrases_held_out": fact.held_out,
        "neighborhood_prompts": _about_others(world, fact, fact.target_true, NUM_NEIGHBORS, dice),
        "attribute_prompts": _about_others(world, fact, fact.target_new, NUM_ATTRIBUTES, dice),
        "generation_prompts": [opening.format(fact.subject) for opening in openings],
    }


def records(world: World) -> list[dict[str, Any]]:
    """All facts in CounterFact's layout, in the world's order."""
    return [record(world, fact, case_id) for case_id, fact in enumerate(world.facts)]


def facts_json(world: World) -> str:
    """The text of `facts.json`: a JSON list with a record a line."""
    lines = ",\n".join(json.dumps(item, sort_keys=True) for item in records(world))
    return f"[\n{lines}\n]\n"


def _about_others(world: World, fact: Fact, target: str, count: int, dice: Dice) -> list[str]:
    """Up to `count` trained prompts of other subjects whose object is `target`."""
    prompts = [
        prompt.format(other.subject)
        for other in world.facts
        if other.relation_id == fact.relation_id
        and other.target_true == target
        and other.subject != fact.subject
        for prompt in dice.shuffled(other.trained_prompts)[:2]
    ]
    return dice.shuffled(prompts)[:count]


def _slug(text: str) -> str:
    return text.lower().replace(" ", "-")
