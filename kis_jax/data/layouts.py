"""What one record of a file of facts says, whatever its layout: a table with a row for each.

A new layout is a row of `LAYOUTS`: what marks its records, and where in them things stand.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from kis_jax.data.layout_values import (
    MULTI_HOP,
    Question,
    answers,
    at,
    is_text,
    questions,
    split_sentence,
    texts,
    whole_neighbors,
)
from kis_jax.data.names import find_name


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where the parts of a fact stand in a record.

    Places are keys joined by dots; of several joined by "|" the first that is there is meant.

    Attributes:
      name: for users.
      marks: places that a record of this layout has; one ending in "[]" holds a list, one in "{}"
        an object.
      prompt: the text that the target follows: with `{}` for the subject, or with its name.
      subject: the name.
      new: the target that an edit asks for; where several are given, the first is meant, and the
        others count as right too.
      true: the target that is true, likewise.
      relation: id of the relation.
      paraphrases: a text or a list of them.
      neighbors: what an edit should leave alone: places of prompts, each with that of what is true
        of them; "" if it stands with the prompts, "=" if, failing that, it is the fact's own true
        target.
      portability: what should follow from an edit: name, place of prompts and place of answers.
      each: place of a list, each item of which is a fact; portability is asked after the last.
      attributes: prompts of other subjects for which the new target is true.
      openings: of texts about the subject.
      prepare: makes a record such that all of this holds.
    """

    name: str
    marks: tuple[str, ...]
    prompt: str = "prompt"
    subject: str = "subject"
    new: str = "target_new"
    true: str = "ground_truth"
    relation: str = "relation_id"
    paraphrases: str = "rephrase_prompt|rephrase"
    neighbors: tuple[tuple[str, str], ...] = (("locality", ""),)
    portability: tuple[tuple[str, str, str], ...] = (("portability", "portability", ""),)
    each: str = ""
    attributes: str = "attribute_prompts"
    openings: str = "generation_prompts"
    prepare: Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda record: record


_COUNTERFACT = Layout(
    "CounterFact",
    ("requested_rewrite{}",),
    prompt="requested_rewrite.prompt",
    subject="requested_rewrite.subject",
    new="requested_rewrite.target_new|requested_rewrite.target_new_str|target_new_str|target_new",
    true="requested_rewrite.target_true|requested_rewrite.target_true_str|target_true_str"
    "|target_true",
    relation="requested_rewrite.relation_id",
    paraphrases="paraphrase_prompts",
    neighbors=(("neighborhood_prompts", "="), ("locality", "")),
    prepare=whole_neighbors,
)

# The first whose marks a record has is taken: those with more marks stand before those with fewer.
LAYOUTS = (
    dataclasses.replace(
        _COUNTERFACT,
        name="MQuAKE",
        marks=("requested_rewrite[]",),
        paraphrases="requested_rewrite.question",
        each="requested_rewrite",
        portability=((MULTI_HOP, "questions", "new_answer+new_answer_alias"),),
    ),
    _COUNTERFACT,
    Layout(
        "RippleEdits",
        ("edit{}",),
        true="target_true",
        relation="edit.relation",
        neighbors=(("Relation_Specificity", ""), ("Forgetfulness", "")),
        portability=tuple(
            (name, name, "")
            for name in (
                "Logical_Generalization",
                "Compositionality_I",
                "Compositionality_II",
                "Subject_Aliasing",
            )
        ),
        prepare=split_sentence,
    ),
    Layout(
        "WikiBigEdit",
        ("update", "ans"),
        prompt="update",
        new="ans",
        neighbors=(("loc", "loc_ans"),),
        paraphrases="rephrase+personas",
        portability=((MULTI_HOP, "mhop", "mhop_ans"),),
    ),
    Layout(
        "zsRE",
        ("src",),
        prompt="src",
        new="alt|target_new|ans",
        true="answers|ground_truth",
        neighbors=(("loc", "loc_ans"), ("locality", "")),
    ),
    Layout(
        "FastEdit",
        ("prompt", "target", "queries"),
        new="target",
        paraphrases="queries",
    ),
    Layout("KnowEdit", ("prompt", "target_new", "portability{}")),
    Layout("KnowEdit", ("prompt", "target_new", "locality{}")),
    Layout(
        "EasyEdit",
        ("prompt", "target_new"),
        true="ground_truth|target_true",
        neighbors=(("locality_prompt", "locality_ground_truth"), ("locality", "")),
        portability=(("one-hop", "portability_prompt", "portability_ground_truth"),),
    ),
    Layout(
        "CounterFact, flat",
        ("prompt", "target_new_str"),
        new="target_new_str",
        true="target_true_str",
        paraphrases="paraphrase_prompts",
        neighbors=(("neighborhood_prompts", "="),),
    ),
    Layout(
        "CounterFact, tracing", ("prompt", "target_false"), new="target_false", true="target_true"
    ),
    Layout(
        "facts known to a model", ("template", "attribute"), prompt="template", true="attribute"
    ),
    Layout(
        "UltraEditBench",
        ("prompt", "ans"),
        new="ans",
        paraphrases="rephrase_prompt|rephrase",
        neighbors=(("locality_prompt|loc", "locality_ground_truth|loc_ans"),),
    ),
)

_EMPTY = (None, "", [], {})


def layout_of(record: Any) -> Layout:
    """The layout of a record.

    Raises:
      ValueError: telling what the record has in place of what marks one.
    """
    if not isinstance(record, Mapping):
        raise ValueError(f"expected an object, found {type(record).__name__}")
    for layout in LAYOUTS:
        if all(_marked(record, mark) for mark in layout.marks):
            return layout
    known = ", ".join(dict.fromkeys(layout.name for layout in LAYOUTS))
    keys = ", ".join(f"`{key}`" for key in list(record)[:12]) or "nothing"
    raise ValueError(
        f"expected a record in one of the layouts of docs/facts.md ({known}), found one with {keys}"
    )


def read_record(record: Any, place: int) -> Iterator[dict[str, Any]]:
    """The fields of each `Fact` that a record holds.

    Args:
      record: in one of `LAYOUTS`.
      place: in the file, from 0; the name of a record that brings none.

    Raises:
      ValueError: naming what is missing or not as expected.

    Examples:
      >>> (fact,) = read_record({"src": "Who leads Oru?", "subject": "oru", "ans": "Vera"}, 0)
      >>> fact["prompt"], fact["subject"], fact["target_new"]
      ('Who leads {}?', 'Oru', 'Vera')
    """
    layout = layout_of(record)
    record = layout.prepare(record)
    case_id = _case_id(record, place)
    if not layout.each:
        yield _fields(layout, record, case_id)
        return
    items = at(record, layout.each)
    if not items:
        raise ValueError(f"expected at least one fact in `{layout.each}`, found none")
    for number, item in enumerate(items, 1):
        last = number == len(items)
        own = layout if last else dataclasses.replace(layout, portability=())
        name = case_id if len(items) == 1 else f"{case_id}-{number}"
        yield _fields(own, {**record, layout.each: item}, name)


def unread(record: Mapping[str, Any]) -> set[str]:
    """The keys of a record that its layout has no use for.

    Examples:
      >>> unread({"src": "Who leads Oru?", "subject": "Oru", "pred": "Vera", "cond": ""})
      {'pred'}
    """
    layout = layout_of(record)
    return {str(key) for key, value in record.items() if value not in _EMPTY} - _roots(layout)


@functools.lru_cache
def _roots(layout: Layout) -> frozenset[str]:
    """The keys in which all of a layout's places begin."""
    names = (field.name for field in dataclasses.fields(layout) if field.name != "name")
    places = [place for name in names for place in _places(getattr(layout, name))]
    return frozenset({"case_id", "known_id"} | {re.split(r"\W", place)[0] for place in places})


def _places(value: Any) -> Iterator[str]:
    """All single places in a value of a layout."""
    if isinstance(value, str):
        yield from re.split(r"[|+]", value)
    elif isinstance(value, tuple):
        for one in value:
            yield from _places(one)


def _fields(layout: Layout, record: Mapping[str, Any], case_id: int | str) -> dict[str, Any]:
    prompt, subject = _prompt(at(record, layout.prompt), at(record, layout.subject))
    new = answers(at(record, layout.new), layout.new)
    true = answers(at(record, layout.true), layout.true)
    near, told = _neighbors(layout, record, true)
    far = [
        question
        for name, prompts, targets in layout.portability
        for question in questions(name, at(record, prompts), at(record, targets), prompts)
    ]
    return {
        "case_id": case_id,
        "prompt": prompt,
        "subject": subject,
        "target_true": true[0] if true else "",
        "target_new": new[0] if new else "",
        "relation": str(at(record, layout.relation) or ""),
        "paraphrase_prompts": texts(at(record, layout.paraphrases), layout.paraphrases),
        "neighborhood_prompts": tuple(q.prompts[0] for q in near),
        "neighborhood_targets": tuple(q.answers[0] for q in near) if told else (),
        "neighborhood_aliases": tuple(q.answers[1:] for q in near)
        if any(q.answers[1:] for q in near)
        else (),
        "attribute_prompts": texts(at(record, layout.attributes), layout.attributes),
        "generation_prompts": texts(at(record, layout.openings), layout.openings),
        "new_aliases": new[1:],
        "true_aliases": true[1:],
        "portability": tuple(q for q in far if q.answers),
    }


def _neighbors(
    layout: Layout, record: Mapping[str, Any], true: tuple[str, ...]
) -> tuple[list[Question], bool]:
    """Neighbors with what is true of each; and whether that is told, or `true` for all."""
    found = [
        (question, targets == "=")
        for prompts, targets in layout.neighbors
        for question in questions("", at(record, prompts), at(record, targets), prompts)
    ]
    told = any(question.answers for question, _ in found)
    if not told:
        return [question for question, own in found if own], False
    filled = [
        dataclasses.replace(question, answers=true) if own and not question.answers else question
        for question, own in found
    ]
    return [question for question in filled if question.answers], True


def _prompt(prompt: Any, subject: Any) -> tuple[str, str]:
    """A prompt with `{}` in the place of its subject; without a subject, as it is."""
    subject = "" if subject is None else subject
    if not isinstance(prompt, str) or not prompt.strip() or not is_text(prompt):
        raise ValueError(f"expected a prompt, found {prompt!r:.60}")
    if isinstance(subject, (int, float)) and not isinstance(subject, bool):
        subject = str(subject)
    if not isinstance(subject, str) or not is_text(subject):
        raise ValueError(f"expected a `subject` that is text, found {subject!r:.60}")
    braces = prompt.count("{}")
    if braces > 1 or (braces and not subject.strip()):
        raise ValueError(
            f"expected a prompt with one {{}} and a `subject` for it, found {prompt!r} and "
            f"{subject!r}"
        )
    if braces or not subject.strip():
        return prompt, subject if braces else ""
    found = find_name(prompt, subject)
    if found is None:
        raise ValueError(
            f"expected a prompt that names its subject {subject!r}, found {prompt!r}; write the "
            "name as it stands in the prompt, or {} in its place"
        )
    start, end = found
    return f"{prompt[:start]}{{}}{prompt[end:]}", prompt[start:end]


def _case_id(record: Mapping[str, Any], place: int) -> int | str:
    """The record's name; its place in the file where it has none."""
    found = next((record[name] for name in ("case_id", "known_id") if name in record), None)
    if found is None:
        return place
    if isinstance(found, float) and found.is_integer():
        found = int(found)
    if isinstance(found, bool) or not isinstance(found, (int, str)) or not str(found).strip():
        raise ValueError(f"expected `case_id` to be a number or a name, found {found!r:.60}")
    if not is_text(str(found)):
        raise ValueError(f"`case_id` has half of a character, {found!r:.60}; mend it")
    return found


def _marked(record: Mapping[str, Any], mark: str) -> bool:
    name = mark.removesuffix("[]").removesuffix("{}")
    if name not in record:
        return False
    kind = {"[]": list, "{}": Mapping}.get(mark[-2:], object)
    return isinstance(record[name], kind)
