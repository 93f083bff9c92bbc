"""What `kis plan` shows: progress on standard error, findings on standard output."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from kis_jax.cli.console import known_in_words, print_table, progress

_PAIRS_SHOWN = 5


@contextlib.contextmanager
def plan_progress(num_facts: int, num_layers: int) -> Iterator[Callable[[int, int], None]]:
    """Progress of the target values of all layers; gives the call for a layer and its facts."""
    with progress("facts") as step:
        finished: dict[int, int] = {}

        def on_layer(layer: int, facts: int) -> None:
            finished[layer] = facts
            done = sum(finished.values())
            step("target values", done, num_facts * num_layers, f"layer {layer}")

        yield on_layer


def print_plan(record: Mapping[str, Any]) -> None:
    """Collisions in words, a line for each layer with its best method, and what is recommended."""
    console = Console()
    facts, chosen = record["facts"], record["recommendation"]
    console.print(known_in_words([fact["known"] for fact in facts]))
    for name in ("contradictions", "repetitions"):
        for first, second in record[name][:_PAIRS_SHOWN]:
            console.print(
                f"{name.removesuffix('s')}: {in_words(facts[second])} | {in_words(facts[first])}"
            )
        if len(record[name]) > _PAIRS_SHOWN:
            console.print(f"and {len(record[name]) - _PAIRS_SHOWN:,} more {name}")
    for first, second, alike in record["suspected"][:_PAIRS_SHOWN]:
        console.print(
            f"perhaps a contradiction, keys alike to {alike:.2f}: {in_words(facts[second])} | "
            f"{in_words(facts[first])}"
        )
    print_table(_table(record))
    layer = next(each for each in record["layers"] if each["layer"] == chosen["layer"])
    for pair in layer["pairs"][:_PAIRS_SHOWN]:
        console.print(
            f"collision, p = {pair['superposition']:.2f}: {in_words(facts[pair['edit']])} | "
            f"{in_words(facts[pair['touched']])}"
        )
    if layer["num_collisions"] > _PAIRS_SHOWN:
        left = layer["num_collisions"] - _PAIRS_SHOWN
        console.print(f"and {left:,} more collisions at layer {chosen['layer']}")
    for each in chosen["most_displaced"][:_PAIRS_SHOWN]:
        console.print(f"at risk, moved {each['displacement']:.2f}: {escape(each['text'])}")
    console.print(
        f"recommended: layer {chosen['layer']}, {chosen['method']}; forecast effect "
        f"{chosen['effect']:.2f}, displacement of other knowledge {chosen['displacement']:.2f}"
    )


def in_words(fact: Mapping[str, Any]) -> str:
    """A fact as a sentence with its new object."""
    text = fact["prompt"].replace("{}", fact["subject"])
    return escape(f"{text} -> {fact['target']} (case {fact['case_id']})")


def _table(record: Mapping[str, Any]) -> Table:
    bound = record["settings"]["max_displacement"]
    # Eleven columns fit into the 80 characters of a plain terminal, or a pipe, without being cut.
    table = Table(
        title=f"{len(record['facts']):,} edits: colliding pairs, and the best method of each layer",
        box=SIMPLE,
        show_edge=False,
        padding=(0, 0),
    )
    table.add_column("layer", justify="right")
    for name in ("pairs", "clusters", "reached"):
        table.add_column(name, justify="right")
    table.add_column("method", no_wrap=True)
    for name in ("effect", "carried", "moved", f"edits\nto {bound:g}", "score", "tried"):
        table.add_column(name, justify="right")
    for layer in record["layers"]:
        best = max(layer["methods"], key=lambda method: (method["rehearsal"] or method)["score"])
        table.add_row(
            str(layer["layer"]),
            f"{layer['num_collisions']:,}",
            f"{len(layer['clusters']):,}",
            f"{layer['reached']:.2f}",
            best["method"],
            f"{best['effect']:.2f}",
            f"{best['carried']:.2f}",
            f"{best['displacement']:.2f}",
            f"{best['edits_within_bound']:,}",
            f"{best['score']:.3f}",
            f"{best['rehearsal']['score']:.3f}" if best["rehearsal"] else "-",
        )
    return table
