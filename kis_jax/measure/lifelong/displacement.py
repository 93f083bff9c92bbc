"""How far values were moved, by measure and by forecast, in numbers that compare across layers."""

from __future__ import annotations

import numpy as np

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
    lengths = _lengths(measured, scale)
    told = {
        "count": len(measured),
        "measured": _finite(lengths.mean()) if len(lengths) else None,
        "largest": _finite(lengths.max()) if len(lengths) else None,
        "predicted": None,
        "error": None,
    }
    if predicted is None or not len(lengths):
        return told
    told["predicted"] = _finite(_lengths(predicted, scale).mean())
    size = np.linalg.norm(measured)
    if size > _ROUNDING * np.linalg.norm(scale):
        told["error"] = _finite(np.linalg.norm(predicted - measured) / size)
    return told


def _lengths(rows: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return np.linalg.norm(rows, axis=1) / np.maximum(scale, np.finfo(np.float64).tiny)


def _finite(value: float | np.floating) -> float | None:
    return float(value) if np.isfinite(value) else None
