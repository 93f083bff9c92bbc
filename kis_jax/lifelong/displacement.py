"""How far values were moved, by measure and by forecast, in numbers that compare across layers."""

from __future__ import annotations

import numpy as np

from kis_jax.core.arrays.products import lengths
from kis_jax.passes.not_finite import json_number

# What is moved by less than this share of what it is measured by is moved by rounding.
_ROUNDING = 1e-6


def displacement(
    measured: np.ndarray, predicted: np.ndarray | None, scale: np.ndarray
) -> dict[str, float | int | None]:
    """Displacements of the values of some keys, as plain JSON numbers.

    Args:
      measured: `(q, m)`, values found less values wanted.
      predicted: the same, foreseen; None where a method has no forecast.
      scale: `(q,)`, a length for each key, in which its displacement is told. A key of which
        nothing was asked, as its fact was said already, has none, and is left out.

    Returns:
      `count` of the others; `measured` and `predicted`, means over the keys of their lengths;
      `largest`, the greatest one measured; and `error`, the norm of the difference of the two
      matrices relative to the norm of the measured one, None where nothing but rounding was
      measured.
    """
    asked = scale > _ROUNDING * scale.max(initial=0.0)
    measured, scale = measured[asked], scale[asked]
    moved = lengths(measured) / scale
    told = {
        "count": len(measured),
        "measured": json_number(moved.mean()) if len(moved) else None,
        "largest": json_number(moved.max()) if len(moved) else None,
        "predicted": None,
        "error": None,
    }
    if predicted is None or not len(moved):
        return told
    predicted = predicted[asked]
    told["predicted"] = json_number((lengths(predicted) / scale).mean())
    size = lengths(measured.ravel())
    if size > _ROUNDING * lengths(scale):
        told["error"] = json_number(lengths((predicted - measured).ravel()) / size)
    return told
