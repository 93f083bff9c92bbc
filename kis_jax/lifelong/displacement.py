"""How far values were moved, by measure and by forecast, in numbers that compare across layers."""

from __future__ import annotations

import numpy as np

from kis_jax.core.arrays.products import lengths

# What is moved by less than this share of what it is measured by is moved by rounding.
_ROUNDING = 1e-6


def displacement(
    measured: np.ndarray, predicted: np.ndarray | None, scale: np.ndarray
) -> dict[str, float | int | None]:
    """Displacements of the values of some keys, as plain JSON numbers.

    Args:
      measured: `(q, m)`, values found less values wanted.
      predicted: the same, foreseen; None where a method has no forecast.
      scale: `(q,)`, a length for each key, in which its displacement is told.

    Returns:
      `count`; `measured` and `predicted`, means over the keys of their lengths; `largest`, the
      greatest one measured; and `error`, the norm of the difference of the two matrices relative
      to the norm of the measured one, None where nothing but rounding was measured.
    """
    moved = _in_scale(measured, scale)
    told = {
        "count": len(measured),
        "measured": _finite(moved.mean()) if len(moved) else None,
        "largest": _finite(moved.max()) if len(moved) else None,
        "predicted": None,
        "error": None,
    }
    if predicted is None or not len(moved):
        return told
    told["predicted"] = _finite(_in_scale(predicted, scale).mean())
    size = lengths(measured.ravel())
    if size > _ROUNDING * lengths(scale):
        told["error"] = _finite(lengths((predicted - measured).ravel()) / size)
    return told


def _in_scale(rows: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return lengths(rows) / np.maximum(scale, np.finfo(np.float64).tiny)


def _finite(value: float | np.floating) -> float | None:
    return float(value) if np.isfinite(value) else None
