"""Timing, the machine's peaks, and the table that every benchmark prints and saves."""

from __future__ import annotations

import functools
import importlib
import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results"


def seconds(run: Callable[[], Any], *, repeats: int = 5) -> list[float]:
    """Durations of `run` after one call that is not counted; it waits for jax's results."""
    jax.block_until_ready(run())
    durations = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(run())
        durations.append(time.perf_counter() - start)
    return durations


@functools.cache
def peak_flops(dtype: str = "float32") -> float:
    """The best rate of a square matrix product in this run: of jax, and on a CPU of NumPy too."""
    n = 3072
    with jax.enable_x64(dtype == "float64"):
        left, right = jnp.ones((n, n), dtype), jnp.ones((n, n), dtype)
        product = jax.jit(lambda a, b: jnp.matmul(a, b, precision="highest"))
        best = min(seconds(lambda: product(left, right)))
    if jax.devices()[0].platform == "cpu" and dtype != "bfloat16":
        a, b = np.ones((n, n), dtype), np.ones((n, n), dtype)
        best = min(best, *seconds(lambda: a @ b))
    return 2 * n**3 / best


@functools.cache
def peak_bandwidth() -> float:
    """The best rate, in bytes a second, of reading one large array and writing another."""
    x = jnp.ones(2**26, jnp.float32)
    copy = jax.jit(lambda x, out: out.at[:].set(x + 1), donate_argnums=1)
    out = copy(x, jnp.zeros_like(x))
    durations = []
    for _ in range(5):
        start = time.perf_counter()
        out = jax.block_until_ready(copy(x, out))
        durations.append(time.perf_counter() - start)
    return 2 * x.nbytes / min(durations)


def row(
    operation: str,
    shape: str,
    dtype: str,
    durations: Sequence[float],
    *,
    flops: float,
    moved: float | None = None,
    function: Callable[..., Any] | None = None,
    arguments: tuple[Any, ...] = (),
    baseline: Sequence[float] | None = None,
    field: Sequence[float] | None = None,
) -> dict[str, Any]:
    """One line of a table of operations.

    Args:
      operation: what was done.
      shape: on what.
      dtype: in which arithmetic.
      durations: of each repetition, in seconds.
      flops: the operations that it needs, however many were made.
      moved: bytes that it must read and write, for what is bound by them.
      function: jitted, to ask for the temporary memory of its program.
      arguments: of `function`.
      baseline: durations of a strong program of the same algorithm.
      field: durations of what the field's programs do.
    """
    median = statistics.median(durations)
    share = flops / median / peak_flops(dtype)
    if moved is not None:
        share = max(share, moved / median / peak_bandwidth())
    temporary = ""
    if function is not None:
        analysis = function.lower(*arguments).compile().memory_analysis()  # pyright: ignore
        temporary = f"{analysis.temp_size_in_bytes / 2**20:,.0f} MiB"

    def ratio(others: Sequence[float] | None) -> str:
        return "" if others is None else f"{statistics.median(others) / median:,.1f}"

    return {
        "operation": operation,
        "shape": shape,
        "dtype": dtype,
        "time": spread(durations),
        "GFLOP/s": f"{flops / median / 1e9:,.1f}",
        "GB/s": "" if moved is None else f"{moved / median / 1e9:,.1f}",
        "of peak": f"{share:.0%}",
        "temporary": temporary,
        "x baseline": ratio(baseline),
        "x field": ratio(field),
    }


def optional(name: str) -> Any:
    """A module that is not needed; None where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def device_name() -> str:
    """What the figures were measured on."""
    device = jax.devices()[0]
    if device.platform != "cpu":
        return device.device_kind
    models = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return f"{len(models)} cores of {models[0]}" if models else "CPU"


def spread(durations: Sequence[float]) -> str:
    """Median, least and most, for reading."""
    return f"{statistics.median(durations):.3g} s ({min(durations):.3g} to {max(durations):.3g})"


def report(subject: str, title: str, rows: Sequence[dict[str, Any]]) -> None:
    """Prints a table and saves it as `results/<subject>.json`, with what it was measured on."""
    table = Table(title=title, caption=device_name())
    for name in rows[0]:
        table.add_column(name)
    for line in rows:
        table.add_row(*(f"{v:.3g}" if isinstance(v, float) else str(v) for v in line.values()))
    Console(width=200).print(table)
    RESULTS.mkdir(exist_ok=True)
    content = {
        "title": title,
        "device": device_name(),
        "jax": jax.__version__,
        "load": os.getloadavg()[0],  # others at work lower every figure
        "peak": {"float32": peak_flops(), "bandwidth": peak_bandwidth()},
        "rows": list(rows),
    }
    (RESULTS / f"{subject}.json").write_text(json.dumps(content, indent=1) + "\n")
