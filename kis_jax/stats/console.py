"""What `kis stats` shows."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from kis_jax.cli.console import print_table

if TYPE_CHECKING:
    from kis_jax.passes.convergence import Look
    from kis_jax.stats.run import Stats


def print_stats(stats: Stats) -> None:
    """The run, a line a layer, and how they converged."""
    from kis_jax.stats.run import describe

    console = Console()
    state = "" if stats.complete else " (unfinished)"
    console.print(f"second moments in {stats.directory}{state}", highlight=False)
    for name, value in stats.identity.items():
        if value is not None:
            shown = value if isinstance(value, str | int | float) else f"{len(value)}"
            console.print(f"  {name}: {str(shown)[:16]}", highlight=False)
    table = Table(title="Second moments C, by layer")
    for name in ("layer", "tokens", "a dimension", "trace", "largest part", "relative error"):
        table.add_column(name, justify="right")
    for line in describe(stats):
        table.add_row(
            str(line["layer"]),
            f"{line['tokens']:,}",
            f"{line['tokens_for_each_dimension']:.3g}",
            f"{line['size']:.3g}",
            f"{line['top']:.2%}",
            _number(line["error"]),
        )
    print_table(table)
    if stats.looks:
        print_table(_convergence(stats.looks))


def print_stats_json(stats: Stats) -> None:
    """The same as JSON."""
    from kis_jax.stats.run import describe

    content = {
        "identity": stats.identity,
        "complete": stats.complete,
        "layers": list(describe(stats)),
        "convergence": [dataclasses.asdict(look) for look in stats.looks],
    }
    print(json.dumps(content, indent=2))


def _convergence(looks: tuple[Look, ...]) -> Table:
    table = Table(title="Convergence: the worst layer's error of C, kurtosis of P by layer")
    watched = list(looks[-1].kurtosis)
    for name in ("tokens", "error of C", *(f"layer {layer}" for layer in watched)):
        table.add_column(name, justify="right")
    for look in looks:
        known = [error for error in look.error if error is not None]
        worst = max(known) if len(known) == len(look.error) else None
        kurtosis = (_number(look.kurtosis.get(layer)) for layer in watched)
        table.add_row(f"{look.tokens:,}", _number(worst), *kurtosis)
    return table


def _number(value: Any) -> str:
    return "-" if value is None else f"{value:.3g}"
