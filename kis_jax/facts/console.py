"""What `kis facts` shows: plain lines, as they stand in docs/facts.md."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kis_jax.cli.console import progress

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from kis_jax.data.conflicts import Conflict
    from kis_jax.data.facts import Fact
    from kis_jax.data.rewrites import EditPosition
    from kis_jax.facts.overview import FactsOverview, Written

_MOST_LISTED = 20
_LARGE = 16 << 20  # bytes, from which on reading takes seconds


@contextlib.contextmanager
def reading(path: Path | None) -> Iterator[Callable[[int], None]]:
    """A bar over the bytes of a large file; gives the call with the number of those read."""
    if path is None or path.stat().st_size < _LARGE:
        yield lambda done: None
        return
    total = path.stat().st_size
    with progress("bytes", size=True) as step:
        yield lambda done: step("facts", done, total)


def tokenizer_of(model: str) -> tuple[PreTrainedTokenizerFast, int, EditPosition]:
    """The tokenizer of a model, its context, and the token whose key stands for a fact in edits.

    Raises:
      ValueError: if the model has none.
    """
    from kis_jax.checkpoints.hub import locate
    from kis_jax.checkpoints.opening import read_config
    from kis_jax.checkpoints.tokenizers import require_tokenizer
    from kis_jax.passes.targets.settings import edit_settings

    directory = locate(model)
    _, config = read_config(directory)
    tokenizer = require_tokenizer(directory)
    return tokenizer, config.context_length, edit_settings(config).target.position


def print_overview(name: str, overview: FactsOverview) -> None:
    """Layout, counts, what was left out, and what contradicts or repeats what."""
    layouts = ", ".join(name for name in overview.layouts if name)
    print(f"{name}: {layouts}, {_count(overview.num_records, 'record')}", end="")
    print(f", {_count(overview.num_facts, 'fact')}", end="")
    print(f", {overview.num_left_out} left out" if overview.num_left_out else "")
    print(f"with {', '.join(f'{what} {n}' for what, n in overview.counts.items())}")
    if overview.joined:
        print(f"targets joined {', '.join(f'{how} {n}' for how, n in overview.joined.items())}")
    if overview.unread:
        keys = ", ".join(f"{key} {n}" for key, n in sorted(overview.unread.items()))
        print(f"not read: {keys}")
    if overview.doubled:
        print(f"names of several facts: {_listed([str(name) for name in overview.doubled])}")
    if overview.num_left_out:
        print("left out:")
        for entry in overview.left_out:
            print(f"  {entry.where}: {entry.reason}")
        if overview.num_left_out > len(overview.left_out):
            print(f"  and {overview.num_left_out - len(overview.left_out)} more")
    told, perhaps = overview.conflicts()
    _print_conflicts("contradictions", overview, [one for one in told if one.contradiction])
    _print_conflicts("repetitions", overview, [one for one in told if not one.contradiction])
    _print_conflicts("perhaps one question", overview, perhaps)
    if overview.num_facts > len(overview.facts):
        print(f"contradictions and the like: of the first {len(overview.facts):,} facts")


def print_facts(facts: Sequence[Fact]) -> None:
    """Facts as they are asked, the subject marked, and as they are written."""
    if facts:
        print("asked, with the [subject], and written:")
    for fact in facts:
        print(f"  {fact.case_id}: {_marked(fact)}")


def print_written(shown: Sequence[Fact], written: Sequence[Written]) -> None:
    """The same in tokens; and the facts that the tokenizer cannot write."""
    found = {id(one.fact): one for one in written}
    if shown:
        print("asked, with the [subject], and written; in tokens, *the one that stands for it:")
    for fact in shown:
        print(f"  {fact.case_id}: {_marked(fact)}")
        one = found.get(id(fact))
        if one is not None and one.prompt:
            marked = [f"*{t}" if i == one.index else t for i, t in enumerate(one.prompt)]
            print(f"    {'|'.join(marked)}||{'|'.join(one.target)}")
    failed = [one.reason for one in written if one.reason]
    if failed:
        print(f"cannot be written: {len(failed)}")
        for reason in failed[:_MOST_LISTED]:
            print(f"  {reason}")
        if len(failed) > _MOST_LISTED:
            print(f"  and {len(failed) - _MOST_LISTED} more")


def print_recall(model: str, facts: Sequence[Fact]) -> None:
    """How many facts a model knows, of all that have a true target and of each relation."""
    import collections

    from kis_jax.checkpoints.loading import load
    from kis_jax.cli.console import known_in_words
    from kis_jax.passes.scores.recall import recall

    if not any(fact.target_true for fact in facts):
        raise ValueError("--recall: expected facts with a true target, found none; add some")
    loaded, tokenizer = load(model)
    assert tokenizer is not None  # its tokens were shown
    known = recall(loaded, tokenizer, facts)
    print(known_in_words(known))
    told = [(fact.relation, one) for fact, one in zip(facts, known, strict=True) if one is not None]
    total = collections.Counter(relation for relation, _ in told)
    right = collections.Counter(relation for relation, one in told if one)
    if len(total) > 1:
        for relation in sorted(total):
            print(f"  {relation or 'no relation'}: {right[relation]} of {total[relation]}")


def _marked(fact: Fact) -> str:
    from kis_jax.data.continuations import join

    start, end = fact.subject_span
    text = fact.text if start == end else f"{fact.text[:start]}[{fact.subject}]{fact.text[end:]}"
    if not fact.target_new:
        return f"{text} || no new target"
    joined, place = join(text, fact.target_new)
    others = f" (also {', '.join(fact.new_aliases)})" if fact.new_aliases else ""
    return f"{joined[:place]} ||{joined[place:]}{others}"


def _print_conflicts(name: str, overview: FactsOverview, found: Sequence[Conflict]) -> None:
    if not found:
        return
    print(f"{name}: {len(found)}")
    for one in found[:_MOST_LISTED]:
        first, second = overview.facts[one.first], overview.facts[one.second]
        print(f"  {first.case_id}: {_marked(first)}")
        print(f"  {second.case_id}: {_marked(second)}")
    if len(found) > _MOST_LISTED:
        print(f"  and {len(found) - _MOST_LISTED} more")


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _MOST_LISTED
    return ", ".join(names[:_MOST_LISTED]) + (f" and {more} more" if more > 0 else "")


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
