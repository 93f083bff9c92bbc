"""Editing as facts come in: the time of one more edit.

    python -m benchmarks.editor

An `Editor` with room for 1,000 edits at the shape of GPT-2 small, half full. One edit at a time,
500 in one `jax.lax.scan`, and blocks of 100. The baseline holds the same ledger in NumPy and SciPy,
one edit at a time: a triangular solve, and products with the ledger and the kernel.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.edits import SHAPES, layer
from benchmarks.harness import optional, report, row, seconds
from kis_jax.core.editing.editor import Editor
from kis_jax.core.geometry.whitening import CholeskyWhitener

CAPACITY, BLOCK = 1000, 100


def numpy_stream(given: Any, start: int, stop: int) -> float:
    """Seconds of sequential edits, one after another, in a ledger of arrays."""
    linalg = optional("scipy.linalg")
    kernel, keys, values, factor = given
    white = np.zeros((CAPACITY, len(kernel)), np.float32)
    residuals = np.zeros_like(values)

    def run() -> None:
        for i in range(start, stop):
            z = linalg.solve_triangular(factor.T, keys[i], lower=True, check_finite=False)
            residuals[i] = values[i] - keys[i] @ kernel - (white[:i] @ z) @ residuals[:i]
            white[i] = z / (z @ z)

    return min(seconds(run, repeats=2))


def main() -> None:
    """Measures both rules, one by one and in blocks."""
    d, m = SHAPES["GPT-2 small"]
    given = layer(d, m, CAPACITY)
    kernel, keys, values, factor = map(jnp.asarray, given)
    whitener = CholeskyWhitener(jnp.ones(d), factor)
    half = CAPACITY // 2
    peer = numpy_stream(given, half, CAPACITY) / half
    rows = []
    for rule in ("sequential", "constrained"):
        editor = Editor.init(kernel, whitener, CAPACITY, rule=rule)
        editor, _ = editor.add(keys[:half], values[:half])
        for size in (1, BLOCK):
            blocks = [x[half:].reshape(-1, size, x.shape[1]) for x in (keys, values)]
            stream = jax.jit(
                lambda editor, *edits: jax.lax.scan(lambda e, kv: e.add(*kv), editor, edits)
            )
            durations = seconds(lambda: stream(editor, *blocks), repeats=3)  # noqa: B023
            passes = 2 if rule == "sequential" else 5  # over the ledger of whitened keys
            rows.append(
                row(
                    f"Editor.add, {rule}, {size} at a time, an edit",
                    f"n={half} to {CAPACITY:,}, d={d:,}, m={m}",
                    "float32",
                    [t / half for t in durations],
                    flops=d**2 + 2 * d * m + 2 * CAPACITY * (passes * d + m),
                    # Factor, kernel and ledger are read once for each block.
                    moved=4 * (d**2 / 2 + d * m + CAPACITY * (passes * d + m)) / size,
                    function=stream,
                    arguments=(editor, *blocks),
                    baseline=[peer] if rule == "sequential" else None,
                )
            )
    report("editor", "One more edit", rows)


if __name__ == "__main__":
    main()
