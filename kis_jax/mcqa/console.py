"""What `kis mcqa` shows: progress on standard error, results on standard output."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from kis_jax.cli.console import print_table, progress

if TYPE_CHECKING:
    from kis_jax.mcqa.inputs import TrainInputs


@contextlib.contextmanager
def training_progress(inputs: TrainInputs) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Progress over the epochs of each stage; gives the call for one."""
    with progress("epochs") as step:

        def on_epoch(told: Mapping[str, Any]) -> None:
            text = f"loss {told['loss']:.3f}, validation {told['validation_accuracy']:.1%}"
            stage = told["stage"]
            step(f"stage {stage + 1}", told["epoch"], inputs.epochs(stage), text)

        yield on_epoch


def print_training(record: Mapping[str, Any], out: Path) -> None:
    """The best epoch of each stage, and where the model lies."""
    table = Table(title="Best epoch of each stage")
    for name in ("stage", "epoch", "loss", "validation loss", "validation accuracy"):
        table.add_column(name, justify="right")
    for best in record["best"]:
        table.add_row(
            str(best["stage"] + 1),
            str(best["epoch"]),
            f"{best['loss']:.4f}",
            f"{best['validation_loss']:.4f}",
            f"{best['validation_accuracy']:.1%}",
        )
    print_table(table)
    if record["fresh"]:
        print(f"made anew: {', '.join(record['fresh'])}")
    print(f"model: {out / 'model'}")


def print_evaluation(record: Mapping[str, Any]) -> None:
    """A line for each metric, a column for each way of scoring; nothing without answers."""
    methods = [method for method in record["methods"] if method["metrics"] is not None]
    if not methods:
        return
    table = Table(title="Accuracy, with 95 % intervals")
    table.add_column("of")
    for method in methods:
        table.add_column(method["method"], justify="right")
    table.add_column("count", justify="right")
    for name, first in methods[0]["metrics"].items():
        cells = (_with_interval(method["metrics"][name]) for method in methods)
        table.add_row(name.replace("_", " "), *cells, str(first["count"]))
    print_table(table)


def _with_interval(found: Mapping[str, Any]) -> str:
    return f"{found['mean']:.1%} ({found['low']:.1%} to {found['high']:.1%})"
