"""Makes `kis_jax/data/world.json` of the tables in `scripts/world.toml`.

    python scripts/make_world.py

Deterministic: the same tables give the same file. `scripts/check_world.py` checks the tables.
"""

from __future__ import annotations

import dataclasses
import json
import random
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

TABLES = Path(__file__).with_name("world.toml")
OUT = Path(__file__).parent.parent / "kis_jax" / "data" / "world.json"
NUM_NEIGHBORS = 10


@dataclasses.dataclass(frozen=True)
class Relation:
    """One relation: see the head of `world.toml`.

    Attributes:
      id: its name.
      prompts: three wordings with `{}` for the subject; the first is that of the facts.
      checked: the packages that `check_world.py` compares it with.
      own: whether each object has one subject, so that neighbors have objects of their own.
      asked: the object of each subject that a fact is about.
      beside: the object of each subject that is a neighbor only.
    """

    id: str
    prompts: tuple[str, str, str]
    checked: str
    own: bool
    asked: dict[str, str]
    beside: dict[str, str]

    def neighbors(self, subject: str, new: str) -> Iterator[tuple[str, str]]:
        """Prompts about other subjects, each with its object, the best first.

        Those that no fact is about, then those in other words, then subjects of other facts.
        """
        true = self.asked[subject]
        for subjects, prompts in (
            (self.beside, self.prompts[:1]),
            (self.beside, self.prompts[1:]),
            (self.asked, self.prompts),
        ):
            for prompt in prompts:
                for other in _shuffled(subjects, self.id, subject, prompt):
                    held = subjects[other]
                    told = held != new if self.own else held == true
                    # "Guinea" in "Guinea-Bissau": not about another subject, to who looks it up.
                    if told and subject.lower() not in prompt.format(other).lower():
                        yield prompt.format(other), held


def read_relations() -> list[Relation]:
    """The relations of `world.toml`."""
    relations = []
    for row in tomllib.loads(TABLES.read_text(encoding="utf-8"))["relation"]:
        asked: dict[str, str] = {}
        beside: dict[str, str] = {}
        for true, subjects in row["objects"].items():
            for into, names in zip((asked, beside), f"{subjects}|".split("|"), strict=False):
                into |= {name.strip(): true for name in names.split(";") if name.strip()}
        relations.append(
            Relation(
                row["id"],
                tuple(row["prompts"]),
                row["checked"],
                row.get("own", False),
                asked,
                beside,
            )
        )
    return relations


def records() -> list[dict[str, Any]]:
    """All facts in CounterFact's layout, in an order that mixes the relations.

    Raises:
      ValueError: if a fact has fewer than ten neighbors; names it.
    """
    facts = [(relation, subject) for relation in read_relations() for subject in relation.asked]
    random.Random("order").shuffle(facts)
    return [_record(place, *fact) for place, fact in enumerate(facts)]


def text() -> str:
    """The text of `world.json`: a JSON list with a record a line."""
    lines = ",\n".join(json.dumps(record, ensure_ascii=False) for record in records())
    return f"[\n{lines}\n]\n"


def _record(case_id: int, relation: Relation, subject: str) -> dict[str, Any]:
    true = relation.asked[subject]
    # Where nothing but a few neighbors have an object, it is a poor thing to ask for.
    others = [one for one in dict.fromkeys(relation.asked.values()) if one != true]
    new = random.Random(f"{relation.id}, {subject}").choice(others)
    near = list(dict.fromkeys(relation.neighbors(subject, new)))[:NUM_NEIGHBORS]
    if len(near) < NUM_NEIGHBORS:
        raise ValueError(
            f"{relation.id} of {subject}: expected {NUM_NEIGHBORS} neighbors, found {len(near)}; "
            f"add subjects of {true}"
        )
    return {
        "case_id": case_id,
        "requested_rewrite": {
            "prompt": relation.prompts[0],
            "relation_id": relation.id,
            "subject": subject,
            "target_new": {"str": new},
            "target_true": {"str": true},
        },
        "paraphrase_prompts": [prompt.format(subject) for prompt in relation.prompts[1:]],
        "neighborhood_prompts": [
            {"prompt": prompt, "target": held} if relation.own else prompt for prompt, held in near
        ],
    }


def _shuffled(subjects: dict[str, str], *seed: str) -> Sequence[str]:
    names = list(subjects)
    random.Random(", ".join(seed)).shuffle(names)
    return names


if __name__ == "__main__":
    OUT.write_text(text(), encoding="utf-8")
    print(f"{OUT}: {len(records())} facts of {len(read_relations())} relations")
