"""Values of records: texts, targets with their aliases, questions with their answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

_PROMPTS = ("prompt", "question", "New Question", "query")
_ANSWERS = ("ground_truth", "target", "answers", "answer", "New Answer")
MULTI_HOP = "multi-hop"  # the kind of questions that need more facts than one
_TESTS = "test_queries"
# What programs put where a data set has no true target.
_PLACEHOLDERS = ("<|endoftext|>",)


@dataclasses.dataclass(frozen=True)
class Question:
    """What follows from a fact, or should stay beside it.

    Attributes:
      kind: such as "Reasoning", or `MULTI_HOP`; "" of what should stay.
      prompts: one question, in one wording or in several; one of them answered is enough.
      answers: that are right, the first as the file has it first.
    """

    kind: str
    prompts: tuple[str, ...]
    answers: tuple[str, ...]


def at(record: Mapping[str, Any], place: str) -> Any:
    """What stands at a place of a record: see `Layout`; of "a+b" both as one list.

    Examples:
      >>> at({"a": {"b": 1}, "c": 2}, "x|a.b"), at({"a": "1", "b": ["2"]}, "a+b")
      (1, ['1', '2'])
    """
    if "+" in place:
        found = [at(record, part) for part in place.split("+")]
        return [x for one in found if one is not None for x in _listed(one)]
    for option in place.split("|") if place else ():
        value: Any = record
        for name in option.split("."):
            value = value.get(name) if isinstance(value, Mapping) else None
        if value is not None:
            return value
    return None


def is_text(text: str) -> bool:
    """Whether a string can be encoded: JSON may hold one half of a surrogate pair."""
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def texts(value: Any, place: str) -> tuple[str, ...]:
    """One text, or a list of them; none is blank.

    Raises:
      ValueError: naming the place, at anything else.
    """
    found = _listed(value) if value is not None else []
    for text in found:
        if not isinstance(text, str) or not is_text(text):
            raise ValueError(f"{place}: expected a text or a list of texts, found {value!r:.60}")
    return tuple(text for text in found if text.strip())


def answers(value: Any, place: str) -> tuple[str, ...]:
    """A target and the others that count as right, each once.

    A text or a number; a list of such, or of lists; or an object with the text as `str` or `value`
    and perhaps `aliases`, as CounterFact and RippleEdits have it.

    Raises:
      ValueError: naming the place, at anything else.

    Examples:
      >>> answers({"str": ["Rome", "Roma"], "id": "Q220"}, ""), answers([["no"], ["false"]], "")
      (('Rome', 'Roma'), ('no', 'false'))
    """
    found = dict.fromkeys(text for text in _answers(value, place) if text.strip())
    return tuple(text for text in found if text not in _PLACEHOLDERS)


def questions(kind: str, asked: Any, told: Any, place: str) -> Iterator[Question]:
    """Questions with their answers, in whatever way a record holds them.

    Args:
      kind: of the questions, unless they are sorted under names of their own.
      asked: a text; a list of texts; an object with prompt and answer; a list of such; or any of
        these under names.
      told: the answers, where they stand apart. A list as long as that of the prompts has one for
        each; otherwise it is aliases, and several prompts are one question in other words.
      place: of the questions, for messages.
    """
    if asked is None or asked == "":
        return
    if isinstance(asked, str):
        yield Question(kind, texts(asked, place) or ("",), answers(told, place))
    elif isinstance(asked, list) and asked and all(isinstance(text, str) for text in asked):
        prompts = texts(asked, place)
        if kind == MULTI_HOP:
            yield Question(kind, prompts, answers(told, place))
        elif isinstance(told, list) and len(told) == len(asked):
            for prompt, answer in zip(asked, told, strict=True):
                yield Question(kind, (prompt,), answers(answer, place))
        elif isinstance(told, list) and len(asked) > 1:
            raise ValueError(
                f"{place}: expected as many answers as prompts, found {len(told)} for {len(asked)}"
            )
        else:
            for prompt in prompts:
                yield Question(kind, (prompt,), answers(told, place))
    elif isinstance(asked, list):
        for one in asked:
            yield from questions(kind, one, told, place)
    elif isinstance(asked, Mapping):
        prompt = next((asked[name] for name in _PROMPTS if name in asked), None)
        if prompt is not None:
            answer = next((asked[name] for name in _ANSWERS if name in asked), None)
            yield from questions(kind, prompt, answer, place)
        elif _TESTS in asked:
            yield from questions(kind, asked[_TESTS], None, place)
        else:
            for name, ones in asked.items():
                yield from questions(name, ones, None, place)
    else:
        raise ValueError(f"{place}: expected questions, found {asked!r:.60}")


def split_sentence(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """A record of RippleEdits: its edit is a whole sentence, which ends with the target.

    Targets begin after the last " is " before the place where the sentence begins to differ from
    the one that was true, or in that place if there is none. Where the true one is not given,
    they begin after " is ", if that occurs just once.

    Raises:
      ValueError: if neither tells where the target begins.

    Examples:
      >>> found = split_sentence({"edit": {"prompt": "The mother of Ann is Eve.",
      ...     "original_fact": {"prompt": "The mother of Ann is Ada."}}})
      >>> found["prompt"], found["target_new"], found["target_true"]
      ('The mother of Ann is', 'Eve', 'Ada')
    """
    edit = record["edit"]
    sentence = at(edit, "prompt")
    before = at(edit, "original_fact.prompt")
    if not isinstance(sentence, str):
        raise ValueError(f"edit.prompt: expected a sentence, found {sentence!r:.60}")
    words = sentence.split(" ")
    if isinstance(before, str) and before != sentence:
        others = before.split(" ")
        same = next(
            (i for i, pair in enumerate(zip(words, others, strict=False)) if pair[0] != pair[1]), 0
        )
        if "is" in words[:same]:  # what the targets have in common is part of them
            same -= words[:same][::-1].index("is")
        true = " ".join(others[same:]).removesuffix(".")
    else:
        same, true = words.index("is") + 1 if words.count("is") == 1 else 0, None
    new = " ".join(words[same:]).removesuffix(".")
    if not (same and new.strip()):
        raise ValueError(
            f"edit.prompt: expected a sentence that ends with its target, found {sentence!r}, and "
            "nothing that tells where the target begins"
        )
    return {
        **record,
        "prompt": " ".join(words[:same]),
        "target_new": new,
        "target_true": true,
    }


def whole_neighbors(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """A record in CounterFact's layout, its neighborhood prompts put together again.

    ROME's conversion of zsRE asks for one token of an answer at a time, each after the question
    and the tokens before. A token is no text of its own: the question and the whole answer are.

    Examples:
      >>> whole_neighbors({"neighborhood_prompts": [
      ...     {"prompt": "Who?", "target": " Vera"}, {"prompt": "Who? Vera", "target": " Holm"}]})
      {'neighborhood_prompts': [{'prompt': 'Who?', 'target': ' Vera Holm'}]}
    """
    near = record.get("neighborhood_prompts")
    if not isinstance(near, list) or not all(
        isinstance(one, Mapping)
        and isinstance(one.get("prompt"), str)
        and isinstance(one.get("target"), str)
        for one in near
    ):
        return record
    whole: list[dict[str, Any]] = []
    for one in near:
        if whole and one["prompt"] == whole[-1]["prompt"] + whole[-1]["target"]:
            whole[-1]["target"] += one["target"]
        else:
            whole.append(dict(one))
    return {**record, "neighborhood_prompts": whole}


def _answers(value: Any, place: str) -> Iterator[str]:
    if value is None:
        return
    if isinstance(value, list):
        for one in value:
            yield from _answers(one, place)
    elif isinstance(value, Mapping):
        names = [name for name in ("str", "value", "text") if name in value]
        if not names:
            raise ValueError(
                f"{place}: expected a target as text or under `str`, found an object with "
                f"{', '.join(map(str, value)) or 'nothing'}"
            )
        yield from _answers(value[names[0]], place)
        yield from _answers(value.get("aliases"), place)
    elif isinstance(value, (str, int, float)) and not isinstance(value, bool):
        if not is_text(text := str(value)):
            raise ValueError(f"{place}: found half of a character in {text!r:.60}; mend it")
        yield text
    else:
        raise ValueError(f"{place}: expected a target that is text, found {value!r:.60}")


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
