"""Facts, and reading them from files of any layout."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import warnings
from collections.abc import Callable, Iterator, Sequence, Set
from pathlib import Path
from typing import Any

from kis_jax import factlm
from kis_jax.data import hub
from kis_jax.data.layout_values import Question
from kis_jax.data.layouts import layout_of, read_record, unread
from kis_jax.data.notes import DataNote
from kis_jax.data.records import iter_records

# Files of facts that come with the package, by the names that stand for them.
WORLD = "world"  # docs/world.md
SHIPPED: dict[str, Callable[[], Path]] = {
    factlm.NAME: factlm.facts_path,
    WORLD: lambda: Path(__file__).with_name("world.json"),
}
_FIRST_FIELDS = 11  # of `Fact`, which all facts have had
_MOST_TOLD = 10


@dataclasses.dataclass(frozen=True)
class Fact:
    """One fact, and the prompts that test an edit of it.

    Attributes:
      case_id: its number or name in the data set.
      prompt: with one `{}` where the subject belongs; with none if the subject is not known.
      subject: the subject's name, "" if not known.
      target_true: the object that is true, "" if not given.
      target_new: the object that an edit asks for, "" if not given.
      relation: id of the relation, such as "P103"; "" if not given.
      paraphrase_prompts: the same question in other words.
      neighborhood_prompts: of other subjects, whose answers an edit should leave alone.
      attribute_prompts: of other subjects for which the new object is true.
      generation_prompts: openings of a text about the subject.
      neighborhood_targets: what is true of each neighborhood prompt; empty if that is
        `target_true` for all, as in CounterFact.
      new_aliases: other objects that count as right after an edit.
      true_aliases: other objects that are true.
      neighborhood_aliases: for each of `neighborhood_targets` others that are true as well; empty
        if there are none.
      portability: questions whose answers follow from an edit.
    """

    case_id: int | str
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
    new_aliases: tuple[str, ...] = ()
    true_aliases: tuple[str, ...] = ()
    neighborhood_aliases: tuple[tuple[str, ...], ...] = ()
    portability: tuple[Question, ...] = ()

    @property
    def text(self) -> str:
        """The prompt with its subject filled in."""
        return self.prompt.replace("{}", self.subject)

    @property
    def subject_span(self) -> tuple[int, int]:
        """Where the subject stands in `text`: its first character, and the one after its last.

        The place of `{}`, whatever else the text holds: a name that occurs in it twice is found
        at the right one. Of a fact without a subject, the end of the text, twice.
        """
        if "{}" not in self.prompt:
            return len(self.prompt), len(self.prompt)
        start = self.prompt.index("{}")
        return start, start + len(self.subject)


class FactsLeftOut(DataNote):
    """Some records of a file of facts could not be read, and were left out."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """One record of a file of facts, as it was understood.

    Attributes:
      where: it stands, such as "record 3".
      layout: its name; "" if it is in none that is known.
      facts: that it holds; one, but of MQuAKE's several.
      reason: why it was left out; "" if it was not.
      unread: keys of it that the layout has no use for.
    """

    where: str
    layout: str
    facts: tuple[Fact, ...] = ()
    reason: str = ""
    unread: Set[str] = frozenset()


def iter_facts(
    source: str | Path, *, on_bytes: Callable[[int], None] = lambda done: None
) -> Iterator[Entry]:
    """The records of a source one after another, those that cannot be read included.

    No more than one record is held, and a piece of the file: see `iter_records`.

    Args:
      source: see `read_facts`.
      on_bytes: called now and then with how many bytes of the file are read.

    Raises:
      ValueError: if there is no such source, or it is no file of records.

    Examples:
      >>> next(iter_facts("factlm")).facts[0].text
      'The birthplace of Tomas Corvin is'
    """
    path = facts_path(source)
    if path is not None:
        records = iter_records(path, on_bytes=on_bytes)
    else:
        streamed = hub.stream_hub(hub.KNOWN_FACTS[str(source)])
        records = ((f"record {i}", record) for i, record in enumerate(streamed, 1))
    for place, (where, record) in enumerate(records):
        layout = ""
        try:
            layout = layout_of(record).name
            facts = tuple(Fact(**fields) for fields in read_record(record, place))
            yield Entry(where, layout, facts, unread=unread(record))
        except ValueError as error:
            yield Entry(where, layout, reason=str(error))


def facts_path(source: str | Path) -> Path | None:
    """The file that a name of facts stands for; None if it is one of the hub.

    Raises:
      ValueError: if there is no such file, and no such name.
    """
    path = SHIPPED[str(source)]() if str(source) in SHIPPED else Path(source)
    if path.is_file():
        return path
    if str(source) in hub.KNOWN_FACTS:
        return None
    what = "a folder" if path.is_dir() else "no file"
    raise ValueError(
        f"facts: expected a file of facts (docs/facts.md has the layouts), or one of "
        f"{', '.join((*SHIPPED, *hub.KNOWN_FACTS))}, found {what} {source}"
    )


def read_facts(source: str | Path, limit: int | None = None, *, strict: bool = False) -> list[Fact]:
    """Reads facts from a file in any of the layouts of `kis_jax.data.layouts`.

    What `kis facts` prints of a file shows how it is understood.

    Args:
      source: path of a file, see `iter_records`; "world" or "factlm", which come with the
        package; or one of the names in `kis_jax.data.hub.KNOWN_FACTS`.
      limit: how many facts to take from the start; all if None.
      strict: whether a record that cannot be read is an error; if not, it is left out, and a
        `FactsLeftOut` warning counts and names those.

    Returns:
      The facts, in the order of the records.

    Raises:
      ValueError: if there is no such file, it holds no records, or none that can be read; with
        `strict`, naming all that cannot.

    Examples:
      >>> fact, *_ = read_facts("factlm", 3)
      >>> fact.text, fact.target_true, fact.target_new
      ('The birthplace of Tomas Corvin is', 'Port Ravel', 'Hexby')
    """
    if limit is not None and limit < 1:
        raise ValueError(f"num_facts: expected a positive number, found {limit}")
    facts: list[Fact] = []
    left_out: list[Entry] = []
    for entry in iter_facts(source):
        facts.extend(entry.facts)
        if entry.reason:
            left_out.append(entry)
        if limit is not None and len(facts) >= limit:
            break
    if left_out and (strict or not facts):
        raise ValueError(
            f"facts: expected records that can be read in {source}, found {reasons(left_out)}"
        )
    if left_out:
        message = f"facts: {source}: left out {reasons(left_out)}; kis facts {source} lists all"
        warnings.warn(message, FactsLeftOut, stacklevel=2)
    if not facts:
        raise ValueError(f"facts: expected at least one record, found none in {source}")
    return facts[:limit]


def reasons(left_out: Sequence[Entry]) -> str:
    """How many records were left out and why, in one line; of many the first."""
    told = "; ".join(f"{entry.where}: {entry.reason}" for entry in left_out[:_MOST_TOLD])
    more = len(left_out) - _MOST_TOLD
    count = f"{len(left_out)} record{'s' if len(left_out) > 1 else ''}"
    return f"{count} that cannot be read: {told}" + (f"; and {more} more" if more > 0 else "")


def facts_fingerprint(facts: Sequence[Fact]) -> str:
    """SHA-256 of the facts, each in full."""
    content = json.dumps([_content(fact) for fact in facts], ensure_ascii=False)
    return hashlib.sha256(content.encode()).hexdigest()


def _content(fact: Fact) -> list[Any]:
    """All of a fact; what came to be a part of facts later is left out where there is none."""
    content = list(dataclasses.astuple(fact))
    return content[:_FIRST_FIELDS] if not any(content[_FIRST_FIELDS:]) else content


def first_of_subject(facts: Sequence[Fact]) -> list[int | None]:
    """For each fact the index of the first one with the same subject; None if it is that one.

    The same subject has the same or nearly the same key: it collides with itself (p near 1), and
    says nothing of how different facts lie to each other. Facts without a subject stand by prompts.
    """
    first: dict[str, int] = {}
    names = [fact.subject.strip() or fact.prompt for fact in facts]
    places = [first.setdefault(name, i) for i, name in enumerate(names)]
    return [None if place == i else place for i, place in enumerate(places)]
