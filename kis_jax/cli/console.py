"""What the commands show: progress on standard error, results on standard output."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE
from rich.cells import cell_len
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from kis_jax.data.batches import Batch
    from kis_jax.inspect.run import Inspection
    from kis_jax.passes.reliability import Reliability
    from kis_jax.passes.stream_plan import StreamPlan


SECONDS_BETWEEN_LINES = 30.0  # of progress, where there is no terminal

Step = Callable[..., None]
"""Takes the name of what runs, how much of it is done, of how much, and what else to tell."""


@contextlib.contextmanager
def progress(unit: str, *, size: bool = False) -> Iterator[Step]:
    """Progress on standard error: bars in a terminal; elsewhere, as in a log, a line at intervals.

    Args:
      unit: of what is counted, such as "facts".
      size: whether that is bytes.

    Gives:
      The call for a step, `step(name, done, total, told="")`; the total is None if nobody knows.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        lines = _Lines(unit, size)
        try:
            yield lines.step
        finally:
            lines.end()
        return
    counted = DownloadColumn() if size else TextColumn("{task.fields[counted]}")
    columns = (TextColumn("{task.description}"), BarColumn(), counted, TimeRemainingColumn())
    with Progress(*columns, console=console) as bars:
        tasks: dict[str, Any] = {}

        def step(name: str, done: float, total: float | None, told: str = "") -> None:
            of = "" if total is None else f" of {total:,.0f}"
            counted = f"{done:,.0f}{of} {unit}{told and f', {told}'}"
            if name not in tasks:
                tasks[name] = bars.add_task(name, total=total, counted=counted)
            bars.update(tasks[name], completed=done, total=total, counted=counted)

        yield step


class _Lines:
    """Progress as plain lines: one at an interval, and one where something comes to its end."""

    def __init__(self, unit: str, size: bool) -> None:
        self._unit, self._size = unit, size
        self._start = self._told = time.monotonic()
        self._last: tuple[str, float, float | None, str] | None = None

    def step(self, name: str, done: float, total: float | None, told: str = "") -> None:
        if self._last is not None and self._last[0] != name:
            self.end()
            self._start = self._told = time.monotonic()
        self._last = name, done, total, told
        if time.monotonic() - self._told >= SECONDS_BETWEEN_LINES:
            self._tell()

    def end(self) -> None:
        """Tells of the last step."""
        if self._last is not None:
            self._tell()
            self._last = None

    def _tell(self) -> None:
        assert self._last is not None
        (name, done, total, told), self._told = self._last, time.monotonic()
        passed = self._told - self._start
        rate = done / passed if passed > 0 else 0.0
        show = _bytes if self._size else "{:,.0f}".format
        of = left = ""
        if total is not None:
            seconds = round((total - done) / rate) if rate else None
            left = f"{'-' if seconds is None else datetime.timedelta(seconds=seconds)} left"
            of = f" of {show(int(total))}"
        counted = f"{name}: {show(int(done))}{of}{'' if self._size else f' {self._unit}'}"
        speed = f"{_bytes(int(rate))}/s" if self._size else f"{rate:,.3g} {self._unit}/s"
        words = filter(None, (counted, speed, told, left))
        print(", ".join(words), file=sys.stderr, flush=True)


@contextlib.contextmanager
def corpus_progress(
    num_documents: int | None, *, times: int = 1
) -> Iterator[Callable[[Batch], None]]:
    """Progress over the documents of a corpus, with the rate of tokens; gives the call for a batch.

    Args:
      num_documents: of the corpus; None if that is not known.
      times: how often the call comes for each batch: once for each layer of a streamed model.
    """
    with progress("documents") as step:
        start, tokens, documents = time.monotonic(), 0, 0.0

        def on_batch(batch: Batch) -> None:
            nonlocal tokens, documents
            tokens += int(batch.mask.sum())
            documents += len(batch.rows) / times
            rate = f"{tokens / times / (time.monotonic() - start):,.3g} tokens/s"
            step("second moments", documents, num_documents, rate)

        yield on_batch


def print_table(table: Table) -> None:
    """A table of which no heading and no number is ever cut, however narrow the terminal.

    As it is where it fits; else without lines; else each row as lines of its own.
    """
    console = Console()
    fits = _fit(table, console)
    if not fits:
        table.box, table.show_edge, table.padding = SIMPLE, False, (0, 0)
        fits = _fit(table, console)
    if fits:
        console.print(table)
        return
    plain = Console(soft_wrap=True, highlight=False)
    plain.print(table.title or "")
    headings = [" ".join(str(column.header).split()) for column in table.columns]
    for row in zip(*(column.cells for column in table.columns), strict=True):
        first, *others = zip(headings, row, strict=True)
        plain.print(" ".join(filter(None, first)))
        for heading, cell in others:
            plain.print(f"  {heading}: {cell}" if heading else f"  {cell}")


def _fit(table: Table, console: Console) -> bool:
    """Sets the widths of columns so that no word is cut; False if they need more than there is."""
    least, full = [], []
    for column in table.columns:
        texts = [Text.from_markup(str(cell)).plain for cell in (column.header, *column.cells)]
        whole = texts[:1] if column.overflow == "fold" else texts
        least.append(max(cell_len(word) for text in whole for word in text.split() or [" "]))
        full.append(max(cell_len(line) for text in texts for line in text.splitlines() or [" "]))
        column.width = least[-1]
    wide = console.options.update_width(10 * sum(least) + 100)
    spare = console.width - table.__rich_measure__(console, wide).minimum
    if spare < 0:
        return False
    while spare > 0 and least != full:  # a sign for each column that wants one, in turn
        for place, column in enumerate(table.columns):
            if spare > 0 and least[place] < full[place]:
                least[place], spare = least[place] + 1, spare - 1
                column.width = least[place]
    return True


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


def print_reliability(found: Reliability, tokens: int) -> None:
    """How well P is known, on standard error: at which layer least."""
    estimates = {
        layer: estimate.correlation
        for layer, estimate in found.estimates.items()
        if math.isfinite(estimate.correlation)
    }
    if not estimates:
        return
    least = min(estimates, key=lambda layer: estimates[layer])
    reached = "known" if found.known else "not known as asked"
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    console.print(
        f"P is {reached} after {tokens:,} tokens: estimated correlation with that of endless text "
        f"{estimates[least]:.3f} at layer {least}, the least; {found.target:g} was asked for"
    )
    moving = [layer for layer, estimate in found.estimates.items() if not estimate.steady]
    if moving:
        console.print(
            f"kurtosis from half of the text is outside its 95 % interval at layers {moving}"
        )


def print_layers(layers: Sequence[Mapping[str, Any]]) -> None:
    """The table of a scan: a line a layer."""
    table = Table(title="Superposition P between different facts, by layer")
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
        table.add_column(title, justify="right")
    for layer in layers:
        table.add_row(*(_number(layer[name]) for name in columns))
    print_table(table)


def print_inspection(found: Inspection) -> None:
    """The table of a model: what it is, what its files hold, what a scan of it takes."""
    table = Table(title=found.model, show_header=False)
    for name, value in _inspection_rows(found):
        table.add_section() if not name else table.add_row(name, value)
    print_table(table)


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
    if shape.num_experts > 1:
        yield "experts", f"{shape.num_experts} a layer, {shape.experts_per_token} a token"
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
    print_table(table)


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


def known_in_words(known: Sequence[bool | None]) -> str:
    """How many facts a model knows, by `recall`.

    Examples:
      >>> known_in_words([True, False, None])
      'the model knows 1 of 2 facts; 1 has no true target'
    """
    told = [one for one in known if one is not None]
    left = len(known) - len(told)
    facts = f"{len(told):,} fact{'' if len(told) == 1 else 's'}"
    more = f"; {left:,} {'has' if left == 1 else 'have'} no true target" if left else ""
    return f"the model knows {sum(told):,} of {facts}{more}"
