"""Summaries, moments and the bootstrap, each against a strong program that does the same.

    python -m benchmarks.statistics

Summary: 20,000 facts, keys of 3,072, float32. Needed operations: whitening by a triangular factor,
n d^2, and one triangle of the Gram matrix, n (n - 1) d. The baseline is the same algorithm in
torch: one triangular solve, tiles of one triangle, `histc`, `topk` and power sums of each.
"""

from __future__ import annotations

import importlib
import os
import statistics
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.harness import peak_flops, report, seconds, spread
from kis_jax.core.bootstrap import draw_counts, kurtosis_interval
from kis_jax.core.moments import moments
from kis_jax.core.summary import summarize
from kis_jax.core.whitening import whitener

N, D = 20_000, 3_072
ENTRIES = 2**24
FACTS, RESAMPLES, SAMPLE = 512, 1000, 5


def optional(name: str) -> Any:
    """A module that is not needed; None where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def torch_summary(torch: Any, keys: Any, factor: Any, tile: int = 1024) -> tuple[Any, ...]:
    """The tiled algorithm, as one would write it in torch."""
    white = torch.linalg.solve_triangular(factor, keys.T, upper=False).T.contiguous()
    inverse = 1 / (white * white).sum(1)
    sums = torch.zeros(4, dtype=torch.float64)
    histogram = torch.zeros(200)
    best = torch.zeros(100)
    for start in range(0, len(white), tile):
        rows = white[start : start + tile]
        for other in range(start, len(white), tile):
            products = rows @ white[other : other + tile].T
            if start == other:
                products.triu_(1)  # the zeros of the other half are counted, which is quicker
            for entries in (
                products * inverse[start : start + tile, None],
                products * inverse[other : other + tile],
            ):
                flat = entries.ravel()
                square = flat * flat
                sums += torch.stack(
                    [flat.sum(), square.sum(), torch.dot(square, flat), torch.dot(square, square)]
                )
                histogram += torch.histc(flat, 200, -1, 1)
                best = torch.topk(torch.cat([best, flat.abs_()]), 100).values
    return sums, histogram, best


def summary_rows() -> list[dict]:
    """A summary of 20,000 facts."""
    rng = np.random.default_rng(0)
    keys = rng.standard_t(5, size=(N, D)).astype(np.float32)
    mixed = rng.normal(size=(D, D)).astype(np.float32)
    second_moment = jnp.asarray(mixed @ mixed.T / D + np.eye(D, dtype=np.float32))
    whitening, ours = whitener(second_moment), jnp.asarray(keys)
    peaks = [peak_flops()]
    durations = seconds(lambda: summarize(ours, whitening), repeats=2)
    peaks.append(peak_flops())
    white = seconds(lambda: whitening.whiten(ours), repeats=1)
    needed = N * D**2 + N * (N - 1) * D
    rate = needed / statistics.median(durations)
    rows = [
        row(f"summary of {N:,} facts", durations, f"{rate / max(peaks):.0%} of the peak"),
        row("of which whitening", white, ""),
        {"part": "the peak", "time": f"{max(peaks) / 1e9:,.0f} GFLOP/s", "ratio": ""},
    ]
    if (torch := optional("torch")) is not None:
        factor = torch.linalg.cholesky(torch.tensor(np.asarray(second_moment)))
        given = torch.from_numpy(keys)
        theirs = seconds(lambda: torch_summary(torch, given, factor), repeats=1)
        rows.append(row("the same in torch", theirs, ratio(theirs, durations)))
    return rows


def moments_rows() -> list[dict]:
    """Moments of 2^24 entries, and what it takes to copy them."""
    x = np.random.default_rng(0).standard_t(5, size=ENTRIES).astype(np.float32)
    ours = jnp.asarray(x)
    copied = seconds(jax.jit(lambda: ours + 1))
    durations = seconds(lambda: moments(ours))
    speed, copy = (x.nbytes / statistics.median(d) / 1e9 for d in (durations, copied))
    rows = [
        row(
            f"moments of {ENTRIES:,} entries",
            durations,
            f"{speed:.1f} GB/s read; a copy reads {copy:.1f} GB/s and writes as much",
        )
    ]
    if (stats := optional("scipy.stats")) is not None:

        def theirs() -> tuple[float, ...]:
            return x.mean(), x.var(), stats.skew(x), stats.kurtosis(x)

        peer = seconds(theirs, repeats=3)
        rows.append(row("numpy and scipy.stats, float32", peer, ratio(peer, durations)))
    return rows


def bootstrap_rows() -> list[dict]:
    """A bootstrap over facts; the plain one builds each resampled matrix."""
    p = np.random.default_rng(0).standard_t(5, size=(FACTS, FACTS)).astype(np.float32)
    rng, ours = jax.random.key(0), jnp.asarray(p)
    durations = seconds(lambda: kurtosis_interval(ours, rng, resamples=RESAMPLES))
    drawn = [
        np.repeat(np.arange(FACTS), draw_counts(key, FACTS))
        for key in jax.random.split(rng, SAMPLE)
    ]

    def explicit() -> list[float]:
        values = []
        for facts in drawn:
            entries = p[np.ix_(facts, facts)][facts[:, None] != facts]
            deviation = entries - entries.mean()
            square = deviation * deviation
            values.append(np.mean(square * square) / np.mean(square) ** 2 - 3)
        return values

    peer = [d / SAMPLE * RESAMPLES for d in seconds(explicit)]
    return [
        row(f"interval of kurtosis, {FACTS} facts, {RESAMPLES:,} resamples", durations, ""),
        row(f"numpy's matrices, extrapolated from {SAMPLE}", peer, ratio(peer, durations)),
    ]


def row(part: str, durations: list[float], remark: str) -> dict:
    return {"part": part, "time": spread(durations), "ratio": remark}


def ratio(theirs: list[float], ours: list[float]) -> str:
    return f"ours is {statistics.median(theirs) / statistics.median(ours):.1f} times as fast"


def main() -> None:
    """Measures all three and prints one table."""
    subjects: list[Callable[[], list[dict]]] = [summary_rows, moments_rows, bootstrap_rows]
    rows = [line for subject in subjects for line in subject()]
    load = f"load of the machine {os.getloadavg()[0]:.1f}"  # others at work lower every figure
    report("statistics", f"Statistics of superposition, float32, {load}", rows)


if __name__ == "__main__":
    main()
