"""Curves of several methods or models as a page carries them for `script/curves.js`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

SCRIPTS = ("common.js", "chart.js", "fact.js", "curves.js")
_LOOKS = 6  # colours that `style.css` has


def looks(names: Sequence[str]) -> list[dict[str, str]]:
    """Each line's name and colour; beyond six, dashed."""
    return [
        {"name": name, "look": f"s{1 + place % _LOOKS}" + " dashed" * (place >= _LOOKS)}
        for place, name in enumerate(names)
    ]


def panel(
    name: str,
    lines: Mapping[str, Sequence[float | None] | np.ndarray],
    *,
    bands: Mapping[str, tuple[np.ndarray, np.ndarray]] | None = None,
    foreseen: Mapping[str, np.ndarray] | None = None,
    marks: Sequence[tuple[float, str]] = (),
    digits: int = 2,
    high: float | None = None,
    scale: str = "linear",
) -> dict[str, Any]:
    """One chart.

    Args:
      name: of what is drawn.
      lines: values at each place by the name of the line, in the order of `looks`.
      bands: low and high ends around a line.
      foreseen: further values of a line, drawn thin.
      marks: level lines, and what they say.
      digits: decimals in words.
      high: the top of the axis; None for that of the values.
      scale: "linear" or "asinh".
    """
    drawn = []
    for look, values in zip(looks(list(lines)), lines.values(), strict=True):
        ends = (bands or {}).get(look["name"])
        sides = {} if ends is None else {"low": plain(ends[0]), "high": plain(ends[1])}
        drawn.append({**look, "values": plain(values), **sides})
        if foreseen is not None and look["name"] in foreseen:
            thin = {"name": f"{look['name']}, foreseen", "look": f"{look['look']} foreseen"}
            drawn.append({**thin, "values": plain(foreseen[look["name"]])})
    return {
        "name": name,
        "lines": drawn,
        "marks": [{"value": value, "name": said} for value, said in marks if np.isfinite(value)],
        "digits": digits,
        "high": high,
        "scale": scale,
    }


def plain(values: Sequence[float | None] | np.ndarray) -> list[float | None]:
    """Six digits of each; None for what is not finite."""
    return [
        float(f"{value:.6g}") if value is not None and np.isfinite(value) else None
        for value in values
    ]
