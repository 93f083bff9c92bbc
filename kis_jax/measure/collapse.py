"""Where a model that is edited again and again ceases to be one, by a stated definition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

DEFINITION = (
    "the first checkpoint from which on, to the last one, some sign holds: efficacy over all "
    "edits so far under 0.75, half of its way from 1 to chance; neighborhood under half of its "
    "way to chance (0.5) from where it was on the same facts before any edit; perplexity on "
    "held-out text at least twice that of the unedited model, or not finite"
)
_CHANCE = 0.5
_GROWTH = 2.0


def signs_of_collapse(
    metrics: Mapping[str, float | None],
    unedited: Mapping[str, float | None],
) -> list[dict[str, Any]]:
    """The signs of collapse at one checkpoint.

    Args:
      metrics: `efficacy` and `neighborhood`, shares of success over the edits so far (None where
        no prompt tells), and `perplexity` (None where it is not finite).
      unedited: the same of the model before any edit, on the same facts.

    Returns:
      Of each sign its `metric`, the `value` found, and the `limit` that it passed.

    Example:
      >>> before = {"efficacy": 0.0, "neighborhood": 0.9, "perplexity": 5.0}
      >>> after = {"efficacy": 1.0, "neighborhood": 0.6, "perplexity": 9.9}
      >>> signs_of_collapse(after, before)
      [{'metric': 'neighborhood', 'value': 0.6, 'limit': 0.7}]
    """
    limits = {"efficacy": (1 + _CHANCE) / 2}
    if (start := unedited["neighborhood"]) is not None and start > _CHANCE:
        limits["neighborhood"] = (start + _CHANCE) / 2
    signs: list[dict[str, Any]] = [
        {"metric": name, "value": value, "limit": limit}
        for name, limit in limits.items()
        if (value := metrics[name]) is not None and value < limit
    ]
    value, start = metrics["perplexity"], unedited["perplexity"]
    if start is not None and (value is None or value >= _GROWTH * start):
        signs.append({"metric": "perplexity", "value": value, "limit": _GROWTH * start})
    return signs


def onset(checkpoints: Sequence[tuple[int, list[dict[str, Any]]]]) -> dict[str, Any] | None:
    """Where collapse sets in; see `DEFINITION`.

    Args:
      checkpoints: numbers of edits and the signs at each, in order.

    Returns:
      `edits` and `signs` of that checkpoint, or None if the model holds to the end.

    Example:
      >>> sign = {"metric": "efficacy", "value": 0.5, "limit": 0.75}
      >>> onset([(1, [sign]), (10, []), (100, [sign]), (500, [sign])])["edits"]
      100
    """
    found = None
    for edits, signs in reversed(checkpoints):
        if not signs:
            break
        found = {"edits": edits, "signs": signs}
    return found
