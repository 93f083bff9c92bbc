"""What `kis compare` prints."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from kis_jax.cli.console import print_table
from kis_jax.compare.files import read_comparison
from kis_jax.compare.page import verdicts
from kis_jax.report.words import number


def print_comparison(directory: Path) -> None:
    """A line a model, then what the laws say."""
    comparison = read_comparison(directory)
    columns = {
        "kurtosis": "kurtosis",
        "kurtosis_other_tokens": "other tokens",
        "kurtosis_width_alone": "width alone",
        "bulk_std_times_sqrt_rank": "bulk x sqrt(r)",
        "tail_fraction": "tail",
    }
    table = Table(title="Superposition of the same facts, means over layers")
    for name in ("model", "keys", *columns.values()):
        table.add_column(name, justify="left" if name == "model" else "right", overflow="fold")
    for model in comparison.models:
        measures = (
            number(model.means[name], 4 if name == "tail_fraction" else 2) for name in columns
        )
        table.add_row(escape(model.label), number(model.sizes["key_dimension"], 0), *measures)
    console = Console(soft_wrap=True, highlight=False, markup=False)
    print_table(table)
    for sentence in verdicts(comparison):
        console.print(sentence)
