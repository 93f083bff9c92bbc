"""Facts in CounterFact's record layout, or in zsRE's."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kis_jax import factlm
from kis_jax.data.hub import KNOWN_FACTS, read_hub_records


@dataclasses.dataclass(frozen=True)
class Fact:
    """One fact, and the prompts that test an edit of it.

    Attributes:
      case_id: its number in the data set.
      prompt: with one `{}` where the subject belongs.
      subject: the subject's name.
      target_true: the object that is true, "" if not given.
      target_new: the object that an edit asks for, "" if not given.
      relation: id of the relation, such as "P103"; "" if not given.
      paraphrase_prompts: the same question in other words.
      neighborhood_prompts: of other subjects with the same relation and the same true object.
      neighborhood_targets: what is true of each neighborhood prompt; empty if that is
        `target_true` for all, as in CounterFact.
      attribute_prompts: of other subjects for which the new object is true.
      generation_prompts: openings of a text about the subject.
    """

    case_id: int
    prompt: str
    subject: str
    target_true: str = ""
    target_new: str = ""
    relation: str = ""
    paraphrase_prompts: tuple[str, ...] = ()
    neighborhood_prompts: tuple[str, ...] = ()
    attribute_prompts: tuple[str, ...] = ()
    generation_prompts: tuple[str, ...] = ()
    neighborhood_targets: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The prompt with its subject filled in."""
        return self.prompt.replace("{}", self.subject)

    @property
    def subject_span(self) -> tuple[int, int]:
        """Where the subject stands in `text`: its first character, and the one after its last.

        The place of `{}`, whatever else the text holds: a name that occurs in it twice is found
        at the right one.
        """
        start = self.prompt.index("{}")
        return start, start + len(self.subject)


def read_facts(source: str | Path, limit: int | None = None) -> list[Fact]:
    """Reads facts from a JSON file, or a known data set on the hub.

    A record is in CounterFact's layout if it has `requested_rewrite`, and in zsRE's if it has
    `src`. Of zsRE, `alt` becomes the new target and the first of `answers` the true one;
    `rephrase` is the paraphrase, and `loc` the neighborhood prompt, with `loc_ans` as its target.

    Args:
      source: path of a JSON file, a list of records; "factlm", the embedded ones; or one of the
        names in `kis_jax.data.hub.KNOWN_FACTS`.
      limit: how many records to take from the start; all if None.

    Returns:
      The facts, in the order of the records.

    Raises:
      ValueError: if there is no such file, it is not JSON, or a record lacks its subject or has
        not exactly one place for it in its prompt; names line or record.

    Example:
      >>> fact, *_ = read_facts("factlm", 3)
      >>> fact.text, fact.target_true, fact.target_new
      ('The birthplace of Tomas Corvin is', 'Port Ravel', 'Hexby')
    """
    path = factlm.facts_path() if source == factlm.NAME else Path(source)
    if path.is_file():
        records = _read_json(path)
    elif str(source) in KNOWN_FACTS:
        records = read_hub_records(KNOWN_FACTS[str(source)], limit)
    else:
        raise ValueError(
            f"facts: expected a CounterFact-layout JSON file or one of {', '.join(KNOWN_FACTS)}, "
            f"found no file {source}"
        )
    if limit is not None and limit < 1:
        raise ValueError(f"num_facts: expected a positive number, found {limit}")
    chosen = records if limit is None else records[:limit]
    if not chosen:
        raise ValueError(f"facts: expected at least one record, found none in {source}")
    return [_fact(record, i, f"{source}, record {i + 1}") for i, record in enumerate(chosen)]


def facts_fingerprint(facts: Sequence[Fact]) -> str:
    """SHA-256 of the facts, each in full."""
    content = json.dumps([dataclasses.astuple(fact) for fact in facts], ensure_ascii=False)
    return hashlib.sha256(content.encode()).hexdigest()


def first_of_subject(facts: Sequence[Fact]) -> list[int | None]:
    """For each fact the index of the first one with the same subject; None if it is that one.

    The same subject has the same or nearly the same key: it collides with itself (p near 1), and
    says nothing of how different facts lie to each other.
    """
    first: dict[str, int] = {}
    places = [first.setdefault(fact.subject.strip(), i) for i, fact in enumerate(facts)]
    return [None if place == i else place for i, place in enumerate(places)]


def _read_json(path: Path) -> list[Any]:
    try:
        records = json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path}: expected JSON, found {error.msg} at line {error.lineno} "
            f"column {error.colno}; mend the line, or download the file again"
        ) from None
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: expected UTF-8 text, found {error.reason} at byte {error.start}; "
            "convert the file to UTF-8"
        ) from None
    except (ValueError, RecursionError) as error:  # numbers too long, lists too deep
        raise ValueError(f"{path}: expected JSON records, found {error}") from None
    if not isinstance(records, list):
        raise ValueError(f"{path}: expected a JSON list of records, found {type(records).__name__}")
    return records


def _fact(record: Any, place: int, where: str) -> Fact:
    if not isinstance(record, Mapping):
        raise ValueError(f"{where}: expected an object, found {type(record).__name__}")
    rewrite = record.get("requested_rewrite")
    if isinstance(rewrite, Mapping):
        return _counterfact(record, rewrite, place, where)
    if "src" in record:
        return _zsre(record, place, where)
    raise ValueError(
        f"{where}: expected `requested_rewrite` with prompt and subject, as in CounterFact, "
        f"found {type(rewrite).__name__}; or `src` with a question, as in zsRE"
    )


def _counterfact(
    record: Mapping[str, Any], rewrite: Mapping[str, Any], place: int, where: str
) -> Fact:
    subject, prompt = _subject(rewrite, where), rewrite.get("prompt")
    if not isinstance(prompt, str) or not _is_text(prompt) or prompt.count("{}") != 1:
        raise ValueError(
            f"{where}: expected a `prompt` with exactly one {{}} for its subject, found {prompt!r}"
        )
    return Fact(
        case_id=_case_id(record, place, where),
        prompt=prompt,
        subject=subject,
        target_true=_target(rewrite.get("target_true")),
        target_new=_target(rewrite.get("target_new")),
        relation=str(rewrite.get("relation_id") or ""),
        **{name: _texts(record.get(name), f"{where}, {name}") for name in _LISTS},
    )


def _zsre(record: Mapping[str, Any], place: int, where: str) -> Fact:
    """Levy et al. 2017 (arXiv 1706.04115), with the fields that Mitchell et al. 2022 added."""
    subject, source = _subject(record, where), record["src"]
    if not isinstance(source, str) or not _is_text(source) or "{}" in source:
        raise ValueError(f"{where}: expected `src` to be a question, found {source!r}")
    if subject not in source:
        raise ValueError(
            f"{where}: expected `src` to name its subject {subject!r}, found {source!r}; write the "
            "name as it stands in the question"
        )
    answers = _texts(record.get("answers"), f"{where}, answers")
    rephrase, outside = record.get("rephrase"), record.get("loc")
    return Fact(
        case_id=_case_id(record, place, where),
        prompt=source.replace(subject, "{}", 1),
        subject=subject,
        target_true=answers[0] if answers else "",
        target_new=_target(record.get("alt")),
        paraphrase_prompts=_texts([rephrase] if rephrase else None, f"{where}, rephrase"),
        neighborhood_prompts=_texts([outside] if outside else None, f"{where}, loc"),
        neighborhood_targets=(_target(record.get("loc_ans")),) if outside else (),
    )


def _subject(holder: Mapping[str, Any], where: str) -> str:
    subject = holder.get("subject")
    if not isinstance(subject, str) or not subject:
        raise ValueError(f"{where}: expected a `subject`, found {subject!r}; add the name")
    if not _is_text(subject):
        raise ValueError(f"{where}: `subject` has half of a character, {subject!r}; mend it")
    return subject


def _case_id(record: Mapping[str, Any], place: int, where: str) -> int:
    """The record's number; its place in the file where it has none, as in zsRE."""
    case_id = record.get("case_id", place)
    if not isinstance(case_id, int):
        raise ValueError(f"{where}: expected `case_id` to be a whole number, found {case_id!r}")
    return case_id


_LISTS = ("paraphrase_prompts", "neighborhood_prompts", "attribute_prompts", "generation_prompts")


def _texts(texts: Any, where: str) -> tuple[str, ...]:
    if texts is None:
        return ()
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{where}: expected a list of texts, found {texts!r:.60}")
    return tuple(texts)


def _is_text(text: str) -> bool:
    """Whether a string can be encoded: JSON may hold one half of a surrogate pair."""
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def _target(target: Any) -> str:
    """The text of a target, which CounterFact wraps with an id."""
    return str(target.get("str") or "") if isinstance(target, Mapping) else str(target or "")
