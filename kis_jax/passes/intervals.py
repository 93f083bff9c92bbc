"""Confidence intervals of means over facts: a bootstrap that keeps what belongs together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

_RESAMPLES = 2000
_PERCENTILES = (2.5, 97.5)


def mean_intervals(
    values: Mapping[str, np.ndarray],
    *,
    combined: Sequence[str] = (),
    groups: np.ndarray | None = None,
    seed: int = 0,
) -> dict[str, dict[str, float | int | None]]:
    """Means with percentile-bootstrap 95 % intervals.

    All measures are resampled alike, so that their harmonic mean has an interval of its own.
    Where all values are equal, the interval has no width: resampling tells nothing of values that
    were not seen.

    Args:
      values: of each measure, `(n,)`, NaN where a fact has none.
      combined: measures whose harmonic mean is added under "score", if all have a mean.
      groups: `(n,)` int, which facts share a run, such as those edited into one model: groups are
        drawn anew, and facts within each. None if all facts stand for themselves.
      seed: of the draws.

    Returns:
      For each measure `mean`, `low`, `high` and `count`, the facts that have a value. All but the
      count are None where none has.

    Examples:
      >>> import numpy as np
      >>> found = mean_intervals({"efficacy": np.array([1.0, 0.0, 1.0, np.nan])})
      >>> found["efficacy"]["count"], round(found["efficacy"]["mean"], 3)
      (3, 0.667)
    """
    n = len(next(iter(values.values()), ()))
    drawn = np.concatenate([np.ones((1, n)), _draws(n, groups, np.random.default_rng(seed))])
    means = {name: _means(drawn, column) for name, column in values.items()}
    counts = {name: int(np.isfinite(column).sum()) for name, column in values.items()}
    if combined:
        means["score"] = harmonic_mean([means[name] for name in combined])
        counts["score"] = min(counts[name] for name in combined)
    return {name: _interval(means[name], counts[name]) for name in means}


def harmonic_mean(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Harmonic mean of arrays of one shape, 0 where one of the parts is.

    Examples:
      >>> import numpy as np
      >>> [float(x) for x in harmonic_mean([np.array([1.0, 0.0]), np.array([0.5, 1.0])]).round(3)]
      [0.667, 0.0]
    """
    stacked = np.stack(parts)
    with np.errstate(divide="ignore"):
        return len(parts) / np.sum(1 / stacked, axis=0)


def _draws(n: int, groups: np.ndarray | None, rng: np.random.Generator) -> np.ndarray:
    """How often each fact is in each resample, `(resamples, n)`."""
    if n == 0:
        return np.empty((_RESAMPLES, 0))
    if groups is None:
        return rng.multinomial(n, np.full(n, 1 / n), size=_RESAMPLES)
    members = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    drawn = np.zeros((_RESAMPLES, n))
    for resample in drawn:
        for group in rng.integers(len(members), size=len(members)):
            chosen = rng.choice(members[group], len(members[group]))
            np.add.at(resample, chosen, 1)
    return drawn


def _means(drawn: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Mean of a measure in each resample; NaN in one that has no value."""
    held = np.isfinite(column)
    count = drawn @ held
    with np.errstate(invalid="ignore"):
        return (drawn @ np.where(held, column, 0.0)) / count


def _interval(means: np.ndarray, count: int) -> dict[str, float | int | None]:
    """The first is of the facts as they are, the others of resamples."""
    if not count or np.isnan(means[0]):
        return {"mean": None, "low": None, "high": None, "count": count}
    low, high = np.nanpercentile(means[1:], _PERCENTILES)
    return {"mean": float(means[0]), "low": float(low), "high": float(high), "count": count}
