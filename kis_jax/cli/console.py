"""What the commands show: progress on standard error, results on standard output."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

if TYPE_CHECKING:
    from kis_jax.data.batches import Batch
    from kis_jax.scale.inspection import Inspection
    from kis_jax.scale.stream_plan import StreamPlan


@contextlib.contextmanager
def corpus_progress(
    num_documents: int | None, *, times: int = 1
) -> Iterator[Callable[[Batch], None]]:
    """A bar over the documents of a corpus, with rate and time left; gives the call for a batch.

    Args:
      num_documents: of the corpus; None if that is not known.
      times: how often the call comes for each batch: once for each layer of a streamed model.
    """
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
            rate = f"{tokens / times / (time.monotonic() - start):,.3g}"
            progress.update(task, advance=len(batch.rows) / times, rate=rate)

        yield on_batch


def print_stream_plan(plan: StreamPlan) -> None:
    """What a streamed scan will take, on standard error, before it starts."""
    held = {
        "weights of two layers": plan.weights,
        "sums of one": plan.sums,
        "activations": plan.activations,
        "stream of a chunk": plan.stream,
        "program": plan.program,
    }
    parts = ", ".join(f"{name} {_bytes(size)}" for name, size in held.items() if size)
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    console.print(
        f"stream: {plan.num_layers} layers of {_bytes(plan.layer)}, each read once for "
        f"{plan.chunk_tokens:,} tokens, {plan.token_budget:,} at a time\n"
        f"memory: {_bytes(plan.memory)} of {_bytes(plan.available)} ({parts})\n"
        f"disk: {_bytes(plan.disk)} for second moments"
    )


def print_layers(layers: Sequence[Mapping[str, Any]]) -> None:
    """The table of a scan: a line a layer."""
    table = Table(title="Superposition P between different facts, by layer", pad_edge=False)
    columns = {
        "layer": "layer",
        "mean": "mean",
        "std": "std",
        "kurtosis": "kurtosis",
        "bulk_std_times_sqrt_rank": "bulk x sqrt(r)",
        "tail_fraction": "tail",
        "max": "largest P",
        "condition": "condition",
    }
    for title in columns.values():
        table.add_column(title, justify="right", min_width=max(map(len, title.split())))
    for layer in layers:
        table.add_row(*(_number(layer[name]) for name in columns))
    Console().print(table)


def print_inspection(found: Inspection) -> None:
    """The table of a model: what it is, what its files hold, what a scan of it takes."""
    table = Table(title=found.model, show_header=False)
    for name, value in _inspection_rows(found):
        table.add_section() if not name else table.add_row(name, value)
    Console().print(table)


def _inspection_rows(found: Inspection) -> Iterator[tuple[str, str]]:
    """Names and values; a pair of empty ones stands for a line between sections."""
    shape, memory, cost, weights = found.architecture, found.memory, found.cost, found.weights
    yield "family", shape.family
    yield "layers", str(shape.num_layers)
    yield "width of values, m", f"{shape.width:,}"
    yield "width of keys, d", f"{shape.key_dimension:,}"
    yield (
        "heads",
        f"{shape.num_heads} of {shape.head_dim}, {shape.num_kv_heads} for keys and values",
    )
    yield "vocabulary", f"{shape.vocab_size:,}"
    yield "context", f"{shape.context_length:,} tokens"
    yield "parameters", f"{shape.num_parameters:,}"
    yield "second MLP matrix", shape.memory_tensor
    if found.ignored_attributes:
        yield "in config.json, unused", ", ".join(found.ignored_attributes)
    if weights is None:
        yield "weights on disk", "none here: all figures follow from config.json"
    else:
        dtypes = ", ".join(f"{name} {_bytes(size)}" for name, size in weights.dtypes.items())
        yield "weights on disk", f"{dtypes}, in {weights.files} file(s)"
    yield "", ""
    yield f"memory of a scan, {memory.dtype}", ""
    yield "  weights", _bytes(memory.weights)
    yield "  second moments", f"{_bytes(memory.second_moments)} (layers x d x d, float32)"
    yield (
        "  activations",
        f"{_bytes(memory.activations)} ({memory.token_budget:,} tokens at once, texts cut at "
        f"{memory.document_length:,})",
    )
    yield "  sums on the host", f"{_bytes(memory.host_second_moments)} (float64)"
    yield (
        f"fits {found.device}?",
        f"{'yes' if memory.fits else 'no'}: {_bytes(memory.device)} of "
        f"{_bytes(memory.device_available)}"
        + (
            f", and {_bytes(memory.host)} of the host's {_bytes(memory.host_available)}"
            if memory.host
            else ""
        ),
    )
    if memory.longest_text < shape.context_length:
        yield "longest text that fits", f"{memory.longest_text:,} tokens"
    yield "", ""
    yield f"cost of C, {cost.tokens:,} tokens", ""
    yield "  forward pass", f"{cost.forward_per_token:.3g} FLOP a token"
    yield "  second moments", f"{cost.second_moment_per_token:.3g} FLOP a token"
    yield "  in all", f"{cost.total:.3g} FLOP: {_duration(cost.total / 1e12)} at 1 TFLOP/s"


def print_evaluation(summaries: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> None:
    """The table of an evaluation: a line a measure, a column each for before, after and so on.

    Args:
      summaries: of each column, by its name, what `Evaluation.summary` gives.
    """
    table = Table(title="Means over facts, with 95 % intervals")
    for name in ("measure", *summaries, "facts"):
        table.add_column(name, justify="left" if name == "measure" else "right")
    first = next(iter(summaries.values()))
    for measure, found in first.items():
        cells = (_with_interval(summary[measure]) for summary in summaries.values())
        table.add_row(measure.replace("_", " "), *cells, str(found["count"]))
    Console().print(table)


def _with_interval(found: Mapping[str, Any]) -> str:
    """A mean and its interval, all between -1 and 1, to three digits after the point."""
    if found["mean"] is None:
        return "-"
    return f"{found['mean']:.3f} ({found['low']:.3f} to {found['high']:.3f})"


def print_json(content: Any) -> None:
    """A dataclass as JSON on standard output."""
    print(json.dumps(dataclasses.asdict(content), indent=2))


def print_done(page: Path) -> None:
    """The path of the report, on a line of its own."""
    print(f"report: {page}")


def print_folder(folder: Path) -> None:
    """The path of second moments, on a line of its own."""
    print(f"second moments: {folder}")


def _number(value: float | int | None) -> str:
    return "-" if value is None else str(value) if isinstance(value, int) else f"{value:.3g}"


def _duration(seconds: float) -> str:
    """In the largest unit of which there is one at least."""
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:,.3g} {unit}"
    return f"{seconds:.3g} s"


def _bytes(number: int) -> str:
    """A number of bytes in the unit that gives it one to three digits before the point."""
    size = float(number)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1024
    return f"{size:,.3g} TiB"
