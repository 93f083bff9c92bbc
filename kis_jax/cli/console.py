"""What the commands show: progress on standard error, results on standard output."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

if TYPE_CHECKING:
    from kis_jax.data.batches import Batch


@contextlib.contextmanager
def corpus_progress(num_documents: int) -> Iterator[Callable[[Batch], None]]:
    """A bar over the documents of a corpus, with rate and time left; gives the call for a batch."""
    columns = (
        TextColumn("second moments"),
        BarColumn(),
        TextColumn("{task.completed:,.0f} documents, {task.fields[rate]} tokens/s, left:"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=num_documents, rate="-")
        start, tokens = time.monotonic(), 0

        def on_batch(batch: Batch) -> None:
            nonlocal tokens
            tokens += int(batch.mask.sum())
            rate = f"{tokens / (time.monotonic() - start):,.0f}"
            progress.update(task, advance=len(batch.rows), rate=rate)

        yield on_batch


def print_layers(layers: Sequence[Mapping[str, Any]]) -> None:
    """The table of a scan: a line a layer."""
    table = Table(title="Superposition P between different facts, by layer")
    columns = ("layer", "mean", "std", "kurtosis", "max", "condition")
    for name in columns:
        table.add_column("largest P" if name == "max" else name, justify="right")
    for layer in layers:
        table.add_row(*(_number(layer[name]) for name in columns))
    Console().print(table)


def print_done(page: Path) -> None:
    """The path of the report, on a line of its own."""
    print(f"report: {page}")


def _number(value: float | int | None) -> str:
    return "-" if value is None else str(value) if isinstance(value, int) else f"{value:.3g}"
