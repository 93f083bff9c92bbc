"""What one record of a puzzle file says, whatever its layout."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

_ENDINGS = {"_SR": "semantic", "_CR": "context"}
_VARIANTS = ("original", *_ENDINGS.values())


def read_record(record: Any, where: str, notes: list[str] | None = None) -> dict[str, Any]:
    """The fields of a `Puzzle` but its order.

    Args:
      record: in one of the layouts of `read_puzzles`.
      where: it stands, for messages.
      notes: to which is added what the record says twice, or in two ways, and how it is read.

    Raises:
      ValueError: naming where, and what is missing or not as expected.

    Examples:
      >>> read_record({"id": "SP-7_SR", "question": "Who?", "choice_list": ["I", "You"],
      ...     "label": 1}, "line 3")["group"]
      'SP-7'
    """
    if not isinstance(record, Mapping):
        raise ValueError(f"{where}: expected an object, found {type(record).__name__}")
    notes = [] if notes is None else notes
    fields = _fields(record, where, notes)
    present = [choice for choice in fields["choices"] if choice]
    twice = next((choice for choice in present if present.count(choice) > 1), None)
    if twice is not None:
        notes.append(f"{where} ({fields['id']}): the choice {twice!r} stands twice")
    if len(present) < len(fields["choices"]):
        notes.append(f"{where} ({fields['id']}): a choice is missing, and is never taken")
    return fields


def _fields(record: Mapping[str, Any], where: str, notes: list[str]) -> dict[str, Any]:
    if isinstance(record.get("question"), Mapping):
        return _stem(record, record["question"], where)
    if isinstance(record.get("choices"), Mapping):
        return _stem(record, {"stem": record.get("question"), **_columns(record, where)}, where)
    if "choice_list" in record:
        return _brainteaser(record, where, notes)
    if "choices" in record:
        return _own(record, where)
    raise ValueError(
        f"{where}: expected `choice_list` (BRAINTEASER), a `question` with `stem` and `choices` "
        f"(RiddleSense, CommonsenseQA), or `choices` (our own layout), found "
        f"{', '.join(map(str, record)) or 'nothing'}"
    )


def _brainteaser(record: Mapping[str, Any], where: str, notes: list[str]) -> dict[str, Any]:
    """Jiang et al. 2023 (arXiv 2310.05057); of test sets neither ids nor labels are published.

    In a few records `answer` is not the choice that `label` names; the task scores by the label.
    """
    name = record.get("id", where.rpartition(", ")[2])
    choices = _choices(record["choice_list"], where)
    label, text = record.get("label"), record.get("answer")
    answer = None if label is None else _place(label, choices, f"{where} ({name}), label")
    if isinstance(text, str) and answer is not None and choices[answer] != _text(text, where):
        notes.append(
            f"{where} ({name}): `label` names the choice {choices[answer]!r}, `answer` has "
            f"{text!r}; the label counts"
        )
    ending = next((end for end in _ENDINGS if str(name).endswith(end)), "")
    grouped = "id" in record
    return {
        "id": _name(name, where),
        "question": _text(record.get("question"), f"{where} ({name}), question"),
        "choices": choices,
        "answer": answer,
        "group": str(name).removesuffix(ending) if grouped else "",
        "variant": _ENDINGS.get(ending, "original") if grouped else "",
    }


def _stem(record: Mapping[str, Any], question: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Lin et al. 2021 (arXiv 2101.00376) and Talmor et al. 2019 (arXiv 1811.00937)."""
    name = _name(record.get("id"), where)
    listed = question.get("choices")
    if not isinstance(listed, Sequence) or not all(isinstance(c, Mapping) for c in listed):
        raise ValueError(
            f"{where} ({name}): expected `choices` of `label` and `text` each, found {listed!r:.60}"
        )
    labels = [choice.get("label") for choice in listed]
    key = record.get("answerKey")
    if key and labels.count(key) != 1:
        raise ValueError(
            f"{where} ({name}): expected `answerKey` to be one of {', '.join(map(str, labels))}, "
            f"found {key!r}: there is no one right answer"
        )
    return {
        "id": name,
        "question": _text(question.get("stem"), f"{where} ({name}), stem"),
        "choices": _choices([choice.get("text") for choice in listed], f"{where} ({name})"),
        "answer": labels.index(key) if key else None,
    }


def _columns(record: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Choices as the hub's copies have them: all labels, then all texts."""
    labels, texts = (record["choices"].get(name) for name in ("label", "text"))
    if not isinstance(labels, list) or not isinstance(texts, list) or len(labels) != len(texts):
        raise ValueError(f"{where}: expected `choices` with as many labels as texts")
    pairs = zip(labels, texts, strict=True)
    return {"choices": [{"label": label, "text": text} for label, text in pairs]}


def _own(record: Mapping[str, Any], where: str) -> dict[str, Any]:
    name = _name(record.get("id"), where)
    where = f"{where} ({name})"
    choices, answer = _choices(record["choices"], where), record.get("answer")
    group, variant = ("" if (x := record.get(n)) is None else str(x) for n in ("group", "variant"))
    if bool(group) != bool(variant) or (variant and variant not in _VARIANTS):
        raise ValueError(
            f"{where}: expected a `group` and a `variant`, one of {', '.join(_VARIANTS)}, or "
            f"neither, found {group!r} and {variant!r}"
        )
    if isinstance(answer, str):
        answer = " ".join(answer.split())
        if choices.count(answer) != 1:
            raise ValueError(
                f"{where}: expected `answer` to be one of the choices, found {answer!r}: there is "
                "no one right answer"
            )
        answer = choices.index(answer)
    elif answer is not None:
        answer = _place(answer, choices, f"{where}, answer")
    return {
        "id": name,
        "question": _text(record.get("question"), f"{where}, question"),
        "choices": choices,
        "answer": answer,
        "group": group,
        "variant": variant,
    }


def _name(name: Any, where: str) -> str:
    if not isinstance(name, (str, int)) or isinstance(name, bool) or not str(name).strip():
        raise ValueError(f"{where}: expected an `id`, found {name!r}; give each puzzle a name")
    return str(name)


def _text(text: Any, where: str) -> str:
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"{where}: expected a text, found {text!r:.60}")
    # A lone surrogate is legal in JSON and in no encoding; tokenizers refuse it.
    return " ".join(text.encode("utf-8", "replace").decode().split())


def _choices(choices: Any, where: str) -> tuple[str, ...]:
    if not isinstance(choices, (list, tuple)) or len(choices) < 2:
        raise ValueError(f"{where}: expected two choices or more, found {choices!r:.60}")
    found = tuple(_choice(choice, f"{where}, choice {i}") for i, choice in enumerate(choices, 1))
    if sum(map(bool, found)) < 2:
        raise ValueError(f"{where}: expected two choices or more, found {choices!r:.60}")
    return found


def _choice(choice: Any, where: str) -> str:
    """The text of a choice; "" where it is missing, as NumPy's NaN and JSON's null say."""
    if choice is None or (isinstance(choice, float) and math.isnan(choice)):
        return ""
    if isinstance(choice, (int, float)) and not isinstance(choice, bool):
        return str(choice)
    return _text(choice, where)


def _place(place: Any, choices: Sequence[str], where: str) -> int:
    if isinstance(place, float) and place.is_integer():
        place = int(place)
    if isinstance(place, int) and 0 <= place < len(choices) and not choices[place]:
        raise ValueError(f"{where}: expected a right choice, found that it is missing")
    if not isinstance(place, int) or isinstance(place, bool) or not 0 <= place < len(choices):
        raise ValueError(
            f"{where}: expected the place of the right choice, 0 to {len(choices) - 1}, found "
            f"{place!r}: there is no right answer"
        )
    return place
