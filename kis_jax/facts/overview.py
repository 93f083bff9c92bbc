"""What a file of facts was understood to say, counted and in tokens."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Iterator

from transformers import PreTrainedTokenizerFast

from kis_jax.data.conflicts import Conflict, conflicts, suspected
from kis_jax.data.continuations import join
from kis_jax.data.facts import Entry, Fact, reasons
from kis_jax.data.rewrites import EditPosition, tokenize_rewrites

# So many facts are held, to find conflicts among them; of more than these only counts are kept.
MOST_HELD = 100_000
_MOST_WHOLE = 1000  # of these, those held with all that tests them
_CHUNK = 500
_COUNTED = {
    "new target": lambda fact: bool(fact.target_new),
    "true target": lambda fact: bool(fact.target_true),
    "aliases": lambda fact: bool(fact.new_aliases or fact.true_aliases),
    "relation": lambda fact: bool(fact.relation),
    "paraphrases": lambda fact: bool(fact.paraphrase_prompts),
    "neighbors": lambda fact: bool(fact.neighborhood_prompts),
    "portability": lambda fact: bool(fact.portability),
    "no subject": lambda fact: not fact.subject,
}


class FactsOverview:
    """Counts over a file of facts, its first facts, and what stands in its way.

    Attributes:
      num_records: of the file.
      num_facts: that they hold.
      num_left_out: records that cannot be read.
      layouts: how many records are in each, by name; "" of those in none.
      left_out: these records, each with its reason; at most `MOST_HELD`.
      counts: how many facts have a new target, aliases, and so on.
      joined: how many targets follow their prompts "with a blank" and "without".
      facts: the first `MOST_HELD`, the later of them without the prompts that test them.
      doubled: names that several records have.
      unread: in how many records each key stands that their layout has no use for.
    """

    def __init__(self) -> None:
        """Of no record yet."""
        self.num_records = self.num_facts = self.num_left_out = 0
        self.layouts: collections.Counter[str] = collections.Counter()
        self.left_out: list[Entry] = []
        self.counts: collections.Counter[str] = collections.Counter()
        self.joined: collections.Counter[str] = collections.Counter()
        self.facts: list[Fact] = []
        self.doubled: dict[int | str, None] = {}
        self.unread: collections.Counter[str] = collections.Counter()
        self._names: set[int | str] = set()

    def add(self, entry: Entry) -> None:
        """Takes a record in."""
        self.num_records += 1
        self.layouts[entry.layout] += 1
        self.unread.update(entry.unread)
        if entry.reason:
            self.num_left_out += 1
            if len(self.left_out) < MOST_HELD:
                self.left_out.append(entry)
        for fact in entry.facts:
            self.num_facts += 1
            self.counts.update(name for name, has in _COUNTED.items() if has(fact))
            if fact.target_new:
                text, start = join(fact.text, fact.target_new)
                blank = text[start : start + 1] == " "
                self.joined["with a blank" if blank else "without"] += 1
            if len(self.facts) < MOST_HELD:
                self.facts.append(fact if len(self.facts) < _MOST_WHOLE else _slim(fact))
                if fact.case_id in self._names:
                    self.doubled[fact.case_id] = None
                self._names.add(fact.case_id)

    def check(self, source: str, *, strict: bool) -> None:
        """Raises ValueError if nothing could be read; with `strict`, if anything could not."""
        if self.num_left_out and (strict or not self.num_facts):
            raise ValueError(
                f"facts: expected records that can be read in {source}, found "
                f"{reasons(self.left_out)}"
            )
        if not self.num_facts:
            raise ValueError(f"facts: expected at least one record, found none in {source}")

    def conflicts(self) -> tuple[list[Conflict], list[Conflict]]:
        """Those of `kis_jax.data.conflicts.conflicts`, and those of `suspected`."""
        return conflicts(self.facts), suspected(self.facts)


def _slim(fact: Fact) -> Fact:
    """What of a fact conflicts and tokens need."""
    return dataclasses.replace(
        fact,
        paraphrase_prompts=(),
        neighborhood_prompts=(),
        attribute_prompts=(),
        generation_prompts=(),
        neighborhood_targets=(),
        neighborhood_aliases=(),
        portability=(),
    )


@dataclasses.dataclass(frozen=True)
class Written:
    """A fact in tokens, as an edit writes it.

    Attributes:
      fact: the fact.
      prompt: the text of each token before the target.
      index: which of these stands for the fact.
      target: the text of each token of the target.
      reason: why the fact cannot be written; "" if it can.
    """

    fact: Fact
    prompt: tuple[str, ...] = ()
    index: int = 0
    target: tuple[str, ...] = ()
    reason: str = ""


def as_written(
    facts: Iterable[Fact],
    tokenizer: PreTrainedTokenizerFast,
    *,
    context_length: int,
    position: EditPosition = "subject_last",
) -> Iterator[Written]:
    """Each fact in tokens; where it cannot be written, why.

    A target whose tokens spell another text than that of the file counts as one that cannot be
    written.

    Examples:
      >>> from kis_jax import load
      >>> _, tokenizer = load("factlm")
      >>> fact = Fact(0, "{} was born in", "Vera Holm", target_new="Hexby")
      >>> next(as_written([fact], tokenizer, context_length=96)).target
      (' He', 'xby')
    """
    pending = list(facts)
    for start in range(0, len(pending), _CHUNK):
        chunk = pending[start : start + _CHUNK]
        try:
            yield from _in_tokens(chunk, tokenizer, context_length, position)
        except ValueError:
            for fact in chunk:
                try:
                    yield from _in_tokens([fact], tokenizer, context_length, position)
                except ValueError as error:
                    yield Written(fact, reason=str(error))


def _in_tokens(
    facts: list[Fact],
    tokenizer: PreTrainedTokenizerFast,
    context_length: int,
    position: EditPosition,
) -> list[Written]:
    rewrites = tokenize_rewrites(
        facts, [""], tokenizer, context_length=context_length, position=position
    )
    found = []
    for fact, rewrite in zip(facts, rewrites, strict=True):
        placed = rewrite.texts[0]
        assert placed is not None
        spelled = str(
            tokenizer.decode(placed.tokens[placed.start :], clean_up_tokenization_spaces=False)
        )
        reason = ""
        if spelled.strip() != fact.target_new.strip():
            reason = (
                f"fact {fact.case_id}: expected tokens that spell {fact.target_new!r}, found "
                f"{spelled!r}: the tokenizer cannot write the target"
            )
        pieces = tuple(str(tokenizer.decode([token])) for token in placed.tokens)
        cut = placed.start
        found.append(Written(fact, pieces[:cut], placed.index, pieces[cut:], reason))
    return found
