"""Laws of kurtosis in the size of models, and what of them the width alone would give."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from kis_jax.compare.scans import ComparedScan
from kis_jax.core.arrays.precision import HOST
from kis_jax.core.statistics.bulk import kurtosis_at_rank
from kis_jax.core.statistics.power_law import fit_power_law

# Compiled once for all layers and laws.
_at_ranks, _fit = jax.jit(kurtosis_at_rank), jax.jit(fit_power_law)
SIZES = ("num_parameters", "width", "key_dimension")
# What is fitted: names in `compare.json`, the control of a layer's record, and the entry in it.
_MEASURES: dict[str, tuple[str | None, str]] = {
    "kurtosis": (None, "kurtosis"),
    "kurtosis_distinct_subjects": ("distinct_subjects", "kurtosis"),
    "kurtosis_other_tokens": ("other_tokens", "kurtosis"),
    "kurtosis_random_directions": ("random_directions", "kurtosis"),
    "bulk_std_times_sqrt_rank": (None, "bulk_std_times_sqrt_rank"),
    "bulk_other_tokens": ("other_tokens", "bulk_std_times_sqrt_rank"),
    "tail_fraction": (None, "tail_fraction"),
}


def layer_numbers(layer: dict[str, Any]) -> dict[str, float | None]:
    """The measures of one layer of `scan.json`, by the names under which laws are fitted."""
    return {
        name: (layer if control is None else layer["controls"].get(control, {})).get(entry)
        for name, (control, entry) in _MEASURES.items()
    }


def mean_over_layers(layers: Sequence[dict[str, float | None]], name: str) -> float:
    """The mean of a measure over the layers that have it; NaN where none has."""
    values = [value for layer in layers if (value := layer[name]) is not None]
    return sum(values) / len(values) if values else math.nan


def width_alone(scans: Sequence[ComparedScan]) -> list[float]:
    """Kurtosis at the rank of each model, were all of its related pairs those of the others.

    Each model in turn lends its P: its bulk is scaled to the rank of every model, its related pairs
    stay, see `kis_jax.core.kurtosis_at_rank`. The geometric mean over the lenders, so that all
    models differ in their rank alone.

    Returns:
      A number for each model; NaN where no lender has a positive one.
    """
    ranks = np.array([scan.key_dimension for scan in scans], np.float64)
    lent = []
    for scan in scans:
        found = []
        for layer in scan.record["layers"]:
            p, rank = scan.superposition(layer["layer"]), np.float64(scan.key_dimension)
            found.append(HOST.run(_at_ranks, p, rank, ranks))
        lent.append(_mean_of_finite(np.array(found)))
    logarithms = np.log(np.where(np.array(lent) > 0, lent, np.nan))
    return [float(np.exp(value)) for value in _mean_of_finite(logarithms)]


def _mean_of_finite(rows: np.ndarray) -> np.ndarray:
    """Mean over rows of what is finite; NaN where nothing is."""
    finite = np.isfinite(rows)
    count = finite.sum(axis=0)
    total = np.where(finite, rows, 0).sum(axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def fitted_laws(models: Sequence[dict[str, Any]], *, once: Sequence[int]) -> list[dict[str, Any]]:
    """A power law of each measure in each size, as `compare.json` holds it.

    Args:
      models: each with its sizes, `means` of the measures and `label`.
      once: places of those that count, so that each model does so once.

    Returns:
      For each law its points, as places of models, which of them could not take part because
      their number is not positive, and exponent, factor and interval; None where there are too few
      different sizes.
    """
    names = list(models[0]["means"])
    return [_law(models, once, name, size) for name in names for size in SIZES]


def _law(
    models: Sequence[dict[str, Any]], once: Sequence[int], name: str, size: str
) -> dict[str, Any]:
    values = [model["means"][name] for model in models]
    used = [
        place
        for place in once
        if (value := values[place]) is not None and value > 0 and models[place][size]
    ]
    law: dict[str, Any] = {
        "measure": name,
        "against": size,
        "models": used,
        "left_out": [place for place in once if place not in used],
        **dict.fromkeys(("exponent", "logarithm", "low", "high", "explained")),
    }
    x = [float(models[place][size]) for place in used]
    if len(set(x)) < 2:
        return law
    y = np.array([values[place] for place in used])
    found = [float(value) for value in HOST.run(_fit, np.array(x), y)]
    names = ("exponent", "logarithm", "low", "high", "explained")
    numbers = (value if math.isfinite(value) else None for value in found)
    return law | dict(zip(names, numbers, strict=True))
