"""Numbers that went wrong: the error for them, and what JSON has in their place."""

from __future__ import annotations

import math
from typing import SupportsFloat


class NotFiniteError(ValueError):
    """A model or a search came to numbers that are not finite; what was asked of it is sound.

    A run that goes on past a broken model catches this one, and lets every other `ValueError`,
    such as for a fact that cannot be tokenized, end it.
    """


def json_number(value: SupportsFloat) -> float | None:
    """A number for JSON, which cannot say NaN or infinity: None for these."""
    number = float(value)
    return number if math.isfinite(number) else None
