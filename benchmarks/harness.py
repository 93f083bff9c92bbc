"""Timing, the machine's peak, and the table that every benchmark prints and saves."""

from __future__ import annotations

import json
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


def peak_flops(dtype: str = "float32") -> float:
    """The best rate of a square matrix product here and now: of jax, and on a CPU of NumPy too."""
    n = 3072
    left, right = jnp.ones((n, n), dtype), jnp.ones((n, n), dtype)
    product = jax.jit(lambda a, b: jnp.matmul(a, b, precision="highest"))
    best = min(seconds(lambda: product(left, right)))
    if jax.devices()[0].platform == "cpu" and dtype != "bfloat16":
        a, b = np.ones((n, n), dtype), np.ones((n, n), dtype)
        best = min(best, *seconds(lambda: a @ b))
    return 2 * n**3 / best


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
    """Prints a table and saves it as `results/<subject>.json`."""
    table = Table(title=title)
    for name in rows[0]:
        table.add_column(name)
    for row in rows:
        table.add_row(*(f"{v:.3g}" if isinstance(v, float) else str(v) for v in row.values()))
    Console(width=160).print(table)
    RESULTS.mkdir(exist_ok=True)
    content = {"title": title, "device": device_name(), "jax": jax.__version__, "rows": list(rows)}
    (RESULTS / f"{subject}.json").write_text(json.dumps(content, indent=1) + "\n")
