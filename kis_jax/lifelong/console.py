"""What `kis lifelong` shows: progress on standard error, a table on standard output."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rich.table import Table

from kis_jax.cli.console import print_table, progress

_HEADINGS = {
    "efficacy": "effic.",
    "retention": "retent.",
    "paraphrase": "para.",
    "neighborhood": "neighb.",
}


@contextlib.contextmanager
def lifelong_progress(num_edits: int) -> Iterator[Callable[[str, int], None]]:
    """Progress of the target values and of each method; gives the call for a step of one."""
    with progress("facts") as step:
        yield lambda name, facts: step(name.replace("targets", "target values"), facts, num_edits)


def print_lifelong(methods: Sequence[Mapping[str, Any]]) -> None:
    """The table of a lifelong run: a line for each method at its last checkpoint."""
    last = methods[0]["checkpoints"][-1]["edits"]
    title = f"After {last:,} edits; the last but one column: the forecast's relative error"
    table = Table(title=title)
    table.add_column("method", no_wrap=True)
    for name in (*_HEADINGS.values(), "perpl.", "update", "forecast", "collapse"):
        table.add_column(name, justify="right")
    for method in methods:
        point = method["checkpoints"][-1]
        scores = (point["metrics"][name]["mean"] for name in _HEADINGS)
        errors = [
            moved["error"]
            for each in method["checkpoints"]
            for moved in each["interference"].values()
            if moved["error"] is not None
        ]
        collapse = method["collapse"]
        table.add_row(
            method["method"],
            *map(_number, scores),
            _number(point["perplexity"]),
            _number(point["update"]["relative"]),
            f"{max(errors):.1e}" if errors else "-",
            f"at {collapse['edits']:,}" if collapse else "none",
        )
    print_table(table)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
