"""Summaries, moments and the bootstrap, each against a strong program that does the same.

    python -m benchmarks.statistics

Summary: 20,000 facts, keys of 3,072, float32. Needed operations: whitening by a triangular factor,
n d^2, and one triangle of the Gram matrix, n (n - 1) d. The baseline is the same algorithm in
torch: one triangular solve, tiles of one triangle, `histc`, `topk` and power sums of each. Moments:
`numpy` and `scipy.stats`. Bootstrap: NumPy, each resampled matrix built, extrapolated from five.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.harness import optional, report, row, seconds
from kis_jax.core.geometry.summary import summarize
from kis_jax.core.geometry.whitening import whitener
from kis_jax.core.statistics.bootstrap import draw_counts, kurtosis_interval
from kis_jax.core.statistics.moments import moments

N, D = 20_000, 3_072
ENTRIES = 2**24
FACTS, RESAMPLES, SAMPLE = 512, 1000, 5


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
    ours, whitening = jnp.asarray(keys), whitener(second_moment)
    summary = jax.jit(summarize)
    durations = seconds(lambda: summary(ours, whitening), repeats=3)
    theirs = None
    if (torch := optional("torch")) is not None:
        factor = torch.linalg.cholesky(torch.tensor(np.asarray(second_moment)))
        given = torch.from_numpy(keys)
        theirs = seconds(lambda: torch_summary(torch, given, factor), repeats=1)
    return [
        row(
            "summarize",
            f"{N:,} facts x {D:,}",
            "float32",
            durations,
            flops=N * D**2 + N * (N - 1) * D,
            function=summary,
            arguments=(ours, whitening),
            baseline=theirs,
        )
    ]


def moments_rows() -> list[dict]:
    """Moments of 2^24 entries, and what it takes to copy them."""
    x = np.random.default_rng(0).standard_t(5, size=ENTRIES).astype(np.float32)
    ours, of = jnp.asarray(x), jax.jit(moments)
    durations, theirs = seconds(lambda: of(ours)), None
    if (stats := optional("scipy.stats")) is not None:

        def peer() -> tuple[float, ...]:
            return x.mean(), x.var(), stats.skew(x), stats.kurtosis(x)

        theirs = seconds(peer, repeats=3)
    return [
        row(
            "moments",
            f"{ENTRIES:,}",
            "float32",
            durations,
            flops=8 * ENTRIES,
            moved=x.nbytes,
            function=of,
            arguments=(ours,),
            baseline=theirs,
        )
    ]


def bootstrap_rows() -> list[dict]:
    """A bootstrap over facts; the plain one builds each resampled matrix."""
    p = np.random.default_rng(0).standard_t(5, size=(FACTS, FACTS)).astype(np.float32)
    rng, ours = jax.random.key(0), jnp.asarray(p)
    durations = seconds(lambda: kurtosis_interval(rng, ours, resamples=RESAMPLES))
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

    theirs = [d / SAMPLE * RESAMPLES for d in seconds(explicit)]
    return [
        row(
            "kurtosis_interval",
            f"{FACTS} facts, {RESAMPLES:,} resamples",
            "float32",
            durations,
            flops=5 * 2 * RESAMPLES * FACTS**2,
            baseline=theirs,
        )
    ]


def main() -> None:
    """Measures all three and prints one table."""
    rows = [*summary_rows(), *moments_rows(), *bootstrap_rows()]
    report("statistics", "Statistics of superposition", rows)


if __name__ == "__main__":
    main()
