"""How long several models live under editing: what was foreseen of them, and what was measured."""

from __future__ import annotations

import importlib.metadata
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kis_jax.core.arrays.precision import HOST
from kis_jax.core.statistics.power_law import fit_power_law

MOVED = 0.5
"""An edit counts as lost where its value has gone half the way back, or as far another way."""

EFFICACY = 0.75
"""Half the way from sure success to chance, which is 0.5."""

_GROUPS = ("edited", "other_facts", "text")
_METRICS = ("efficacy", "neighborhood")
_MOST_PERMUTED = 8  # models: more than 40,320 orders are not counted out


def compare_lifetimes(
    models: Sequence[tuple[str, Mapping[str, Any], Mapping[str, Any]]], method: str
) -> dict[str, Any]:
    """What lifelong runs of several models say together.

    Args:
      models: of each its label, the content of its `scan.json` and of its `lifelong.json`, of the
        same facts and steps.
      method: of editing, one with a forecast.

    Returns:
      The content of `lifetimes.json`, plain JSON values. Of each model its course; `foreseen`, the
      number of edits at which the forecast has edited values moved by half of what was asked of
      them; `measured`, the checkpoint of its collapse, see `kis_jax.lifelong.collapse`;
      `efficacy_lost`, where efficacy falls to 0.75; each None if that is beyond the run. And how
      far the order of models by one number foretells that by another.

    Raises:
      ValueError: if no model is given, a run lacks the method, or their steps differ.
    """
    if not models:
        raise ValueError("models: expected one lifelong run at least, found none")
    lives = [_life(label, scan, run, method) for label, scan, run in models]
    for life in lives[1:]:
        if [point["edits"] for point in life["course"]] != [
            point["edits"] for point in lives[0]["course"]
        ]:
            raise ValueError(
                f"models: expected runs of the same steps, found others in {life['label']}; run "
                "kis lifelong with the same --steps"
            )
    pairs = (("kurtosis", "measured"), ("kurtosis", "foreseen"), ("foreseen", "measured"))
    return {
        "format": 1,
        "version": importlib.metadata.version("kis_jax"),
        "method": method,
        "moved": MOVED,
        "efficacy": EFFICACY,
        "models": lives,
        "ranks": [_ranks(lives, first, second) for first, second in pairs],
    }


def _life(
    label: str, scan: Mapping[str, Any], run: Mapping[str, Any], method: str
) -> dict[str, Any]:
    found = [one for one in run["methods"] if one["method"] == method]
    if not found:
        raise ValueError(f"method: expected one that was run, found {method!r} ({label})")
    points, layer = found[0]["checkpoints"], run["layer"]
    (scanned,) = (one for one in scan["layers"] if one["layer"] == layer)
    course = [_point(point) for point in points]
    edits = [point["edits"] for point in course]
    collapse = found[0]["collapse"]
    foreseen = [point["edited"]["predicted"] for point in course]
    efficacy = [point["efficacy"]["mean"] for point in course]
    return {
        "label": label,
        **{name: scan["architecture"][name] for name in ("width", "key_dimension")},
        "num_parameters": scan["architecture"]["num_parameters"],
        "layer": layer,
        **{n: scanned.get(n) for n in ("kurtosis", "bulk_std_times_sqrt_rank", "tail_fraction")},
        "foreseen": crossing(edits, foreseen, MOVED),
        "measured": None if collapse is None else collapse["edits"],
        "signs": [] if collapse is None else [sign["metric"] for sign in collapse["signs"]],
        "efficacy_lost": crossing(edits, [_less(EFFICACY, value) for value in efficacy], 0.0),
        "growth": {name: _growth(edits, [p[name]["measured"] for p in course]) for name in _GROUPS},
        "course": course,
    }


def _point(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    moved = checkpoint["interference"]
    return {
        "edits": checkpoint["edits"],
        "perplexity": checkpoint["perplexity"],
        **{
            name: {end: checkpoint["metrics"][name][end] for end in ("mean", "low", "high")}
            for name in _METRICS
        },
        **{
            name: {key: moved[name][key] for key in ("measured", "predicted", "error")}
            for name in _GROUPS
        },
    }


def _less(limit: float, value: float | None) -> float | None:
    return None if value is None else limit - value


def crossing(edits: Sequence[int], values: Sequence[float | None], limit: float) -> float | None:
    """The number of edits from which on values stay above a limit.

    Between two checkpoints, values are taken as linear in the logarithm of the number of edits.

    Args:
      edits: at the checkpoints, in order.
      values: of something that grows; None, what is beyond all numbers, is above every limit.
      limit: to be passed.

    Returns:
      The number; None where the last value is not above the limit.

    Examples:
      >>> crossing([1, 10, 100], [0.0, 0.2, 0.6], 0.4)
      31.62...
    """
    heights = np.array([math.inf if value is None else value for value in values], np.float64)
    below = np.flatnonzero(heights <= limit)
    if len(below) and below[-1] == len(heights) - 1:
        return None
    first = 0 if not len(below) else int(below[-1]) + 1
    if first == 0 or not math.isfinite(heights[first]):
        return float(edits[first])
    low, high = heights[first - 1], heights[first]
    share = (limit - low) / (high - low)
    return float(edits[first - 1] * (edits[first] / edits[first - 1]) ** share)


def _growth(edits: Sequence[int], values: Sequence[float | None]) -> dict[str, float | None]:
    """The power of the number of edits with which something grows, over the tenth edit on."""
    pairs = [(n, v) for n, v in zip(edits, values, strict=True) if n >= 10 and v and v > 1e-6]
    if len(pairs) < 3:
        return dict.fromkeys(("exponent", "low", "high"))
    law = HOST.run(fit_power_law, *np.array(pairs, np.float64).T)
    return {"exponent": float(law.exponent), "low": float(law.lower), "high": float(law.upper)}


def _ranks(lives: Sequence[Mapping[str, Any]], first: str, second: str) -> dict[str, Any]:
    """Spearman's rank correlation; a model that outlives its run stands after all that do not."""
    columns = np.array(
        [[math.inf if life[name] is None else life[name] for name in (first, second)]
         for life in lives]
    )  # fmt: skip
    rho, probability = rank_correlation(columns[:, 0], columns[:, 1])
    return {
        "first": first,
        "second": second,
        "models": len(lives),
        "outlived": int(np.isinf(columns[:, 1]).sum()),
        "correlation": rho,
        "probability": probability,
    }


def rank_correlation(x: np.ndarray, y: np.ndarray) -> tuple[float | None, float | None]:
    """Spearman's rank correlation of a few pairs, and how likely one as large is by chance.

    Args:
      x: `(n,)`, infinities allowed.
      y: `(n,)`.

    Returns:
      The correlation, as `scipy.stats.spearmanr` gives it, and the share of all orders of `y`
      whose correlation is at least as far from 0: exact, and None for more than eight pairs.
      None for both where one of the two is constant.

    Examples:
      >>> rank_correlation(np.array([1.0, 2.0, 3.0]), np.array([5.0, 7.0, np.inf]))
      (1.0, 0.33...)
    """
    ranks = [_midranks(values) - (len(values) + 1) / 2 for values in (x, y)]
    size = math.sqrt(float((ranks[0] ** 2).sum() * (ranks[1] ** 2).sum()))
    if size == 0:
        return None, None
    rho = float(ranks[0] @ ranks[1]) / size
    if len(x) > _MOST_PERMUTED:
        return rho, None
    orders = np.array(list(itertools.permutations(ranks[1])))
    as_far = np.abs(orders @ ranks[0]) / size >= abs(rho) - 1e-12
    return rho, float(as_far.mean())


def _midranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1; equal values share the mean of theirs."""
    less = (values[None, :] < values[:, None]).sum(axis=1)
    equal = (values[None, :] == values[:, None]).sum(axis=1)
    return less + (equal + 1) / 2
