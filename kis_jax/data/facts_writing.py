"""Facts written to a file in CounterFact's layout."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from kis_jax.data.facts import Fact


@contextlib.contextmanager
def writing_facts(path: Path | None) -> Iterator[Callable[[Fact], None]]:
    """Gives the call that writes a fact; the file appears at the end, whole, or not at all.

    Args:
      path: of the file, a JSON list with a record a line; None to write nothing.

    Examples:
      >>> import tempfile
      >>> from kis_jax.data.facts import read_facts
      >>> path = Path(tempfile.mkdtemp(), "facts.json")
      >>> with writing_facts(path) as keep:
      ...     keep(Fact(0, "{} speaks", "Ann", target_new="Orvish"))
      >>> read_facts(path)[0].text
      'Ann speaks'
    """
    if path is None:
        yield lambda fact: None
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            between = "[\n"

            def keep(fact: Fact) -> None:
                nonlocal between
                file.write(between + json.dumps(counterfact_record(fact), ensure_ascii=False))
                between = ",\n"

            yield keep
            file.write("[]\n" if between == "[\n" else "\n]\n")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def counterfact_record(fact: Fact) -> Mapping[str, Any]:
    """A fact as a record in CounterFact's layout, which `read_facts` reads as the same fact.

    What CounterFact does not have stands under names of its own: `aliases` beside `str`, neighbors
    with a `target` each, and `portability` as in KnowEdit, which other readers pass over.

    Examples:
      >>> record = counterfact_record(Fact(0, "{} speaks", "Ann", target_new="Orvish"))
      >>> record["requested_rewrite"]["target_new"]
      {'str': 'Orvish'}
    """
    near: list[Any] = list(fact.neighborhood_prompts)
    if fact.neighborhood_targets:
        more = fact.neighborhood_aliases or ((),) * len(near)
        answered = zip(near, fact.neighborhood_targets, more, strict=True)
        near = [
            {"prompt": prompt, "target": [target, *others] if others else target}
            for prompt, target, others in answered
        ]
    record = {
        "case_id": fact.case_id,
        "requested_rewrite": {
            "prompt": fact.prompt,
            "relation_id": fact.relation,
            "subject": fact.subject,
            "target_new": _target(fact.target_new, fact.new_aliases),
            "target_true": _target(fact.target_true, fact.true_aliases),
        },
        "paraphrase_prompts": list(fact.paraphrase_prompts),
        "neighborhood_prompts": near,
        "attribute_prompts": list(fact.attribute_prompts),
        "generation_prompts": list(fact.generation_prompts),
    }
    if fact.portability:
        kinds: dict[str, list[Any]] = {}
        for asked in fact.portability:
            prompt = asked.prompts[0] if len(asked.prompts) == 1 else list(asked.prompts)
            kinds.setdefault(asked.kind, []).append(
                {"prompt": prompt, "ground_truth": list(asked.answers)}
            )
        record["portability"] = kinds
    return record


def _target(text: str, aliases: tuple[str, ...]) -> dict[str, Any]:
    return {"str": text, "aliases": list(aliases)} if aliases else {"str": text}
