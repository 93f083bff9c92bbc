"""What the commands about edits show."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from kis_jax.cli.console import known_in_words, print_table, progress

if TYPE_CHECKING:
    from kis_jax.checkpoints.ledger import Ledger

_MEASURES = ("efficacy", "paraphrase", "neighborhood", "score")
# Shown where facts have what they ask for; the first where no fact has a true target.
_ACCURACIES = ("efficacy_accuracy", "portability_accuracy", "multi_hop_accuracy")
_NEAREST = 5


@contextlib.contextmanager
def fact_progress(num_facts: int) -> Iterator[Callable[[int], None]]:
    """Progress over facts; gives the call with the number of those that are through."""
    with progress("facts") as step:
        yield lambda done: step("target values", done, num_facts)


def print_forecast(damage: float, scale: float) -> None:
    """What an edit is to do to ordinary text, said before it is written, beside the progress."""
    share = f"{100 * math.sqrt(damage):.3g} % of their size (damage {damage:.3g})"
    told = [f"foreseen: the layer's answers to ordinary text move by {share}"]
    if scale < 1:
        told.append(f"to keep to the bound, {100 * scale:.3g} % of what was asked is written")
    print("\n".join(told), file=sys.stderr)


def print_edit(record: Mapping[str, Any], out: Path) -> None:
    """The table of an edit: measures before and after; and what was left out."""
    before, after = record["metrics"]["before"], record["metrics"]["after"]
    made = sum(fact["left_out"] is None for fact in record["facts"])
    table = Table(title=f"{made} facts by {record['method']}")
    for name in ("measure", "before", "after", "95 %"):
        table.add_column(name, justify="left" if name == "measure" else "right")
    compared = after["efficacy"]["count"] > 0
    more = [name for name in _ACCURACIES[compared:] if after[name]["count"]]
    for name in (*(_MEASURES if compared else ()), *more):
        then = after[name]
        interval = f"{_share(then['low'])} to {_share(then['high'])}"
        words = name.replace("_", " ")
        table.add_row(words, _share(before[name]["mean"]), _share(then["mean"]), interval)
    generated = record["generated"]
    for name in generated["after"] if generated else ():
        then, words = generated["after"][name], name.replace("_", " ")
        interval = f"{_share(then['low'])} to {_share(then['high'])}"
        table.add_row(
            words, _share(generated["before"][name]["mean"]), _share(then["mean"]), interval
        )
    print_table(table)
    print(f"before: {known_in_words([fact['known'] for fact in record['facts']])}")
    replaced = [edit for edit in record["edits"] if edit["replaces"]]
    for edit in replaced:
        text = edit["prompt"].replace("{}", edit["subject"])
        print(f"replaced: {text}: {edit['target']}, where {edit['replaces'][-1]} was written")
    if record["after"] is not None:
        share = _share(record["history"]["mean"])
        print(f"{len(record['edits'])} edits in all, of whose objects the model says {share}")
    for fact in record["facts"]:
        if fact["left_out"] is not None:
            print(f"left out: fact {fact['case_id']} ({fact['subject']}): {fact['left_out']}")
    print(f"model: {out}")


def print_ledger(ledger: Ledger) -> None:
    """The table of a ledger: a line an edit."""
    layers = ", ".join(map(str, sorted(ledger.layers)))
    table = Table(title=f"{len(ledger.facts)} edits by {ledger.method} in layer {layers}")
    again = any(fact.replaces for fact in ledger.facts)
    for name in ("row", "fact", "prompt", "target", *(("replaces",) if again else ())):
        table.add_column(name, justify="right" if name in ("row", "fact") else "left")
    for row, fact in enumerate(ledger.facts):
        text = fact.prompt.replace("{}", fact.subject)
        before = (escape(", ".join(fact.replaces)),) if again else ()
        table.add_row(str(row), str(fact.case_id), escape(text), escape(fact.target), *before)
    print_table(table)
    if ledger.base is not None:
        print(f"base: {ledger.base.source}, fingerprint {ledger.base.fingerprint}")


def print_row(ledger: Ledger, row: int) -> None:
    """One edit, and at each layer what it wrote and where it lands beside its own fact."""
    if not 0 <= row < len(ledger.facts):
        raise ValueError(
            f"row: expected one of the ledger, 0 to {len(ledger.facts) - 1}, found {row}"
        )
    fact = ledger.facts[row]
    print(f"row {row}, fact {fact.case_id}: {fact.prompt.replace('{}', fact.subject)}")
    print(f"  {fact.target}")
    for layer in sorted(ledger.layers):
        found = ledger.shares(layer, row)
        if found is None:
            print(f"layer {layer}: fine-tuned with all other facts, no part of it is its own")
            continue
        size, shares = found
        print(f"layer {layer}: length of what was asked of the value {size:.4g}")
        if ledger.experts > 1:
            print(f"  experts {', '.join(map(str, ledger.written(layer, row)))}")
        nearest = sorted(range(len(shares)), key=lambda other: -abs(shares[other]))
        for other in [other for other in nearest if other != row][:_NEAREST]:
            theirs = ledger.facts[other]
            print(f"  p = {shares[other]:+.3f} on row {other}, {theirs.subject}")


def print_rewritten(ledger: Ledger | None, before: int, out: Path) -> None:
    """How many edits are left of how many."""
    if ledger is None:
        print(f"none of {before} edits left: the base, bit for bit")
    else:
        print(f"{len(ledger.facts)} of {before} edits by {ledger.method}")
        if not ledger.exact and len(ledger.facts) < before:
            print(
                "as several layers were edited, these are the edits with what each layer then "
                "met, not those that editing the facts anew would give"
            )
    print(f"model: {out}")


def parse_rows(name: str, text: str) -> list[int]:
    """Rows of a ledger from "3,7".

    Raises:
      ValueError: if it is of no such form.
    """
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(
            f"{name}: expected rows of the ledger such as 3,7, found {text!r}"
        ) from None


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"
