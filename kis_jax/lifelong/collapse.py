"""Where a model that is edited again and again ceases to be one, by a stated definition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

DEFINITION = (
    "the first checkpoint from which on, to the last one, some sign holds: efficacy over all "
    "edits so far has fallen below half of its way to chance (0.5) from the best of the "
    "checkpoints before; neighborhood below half of its way to chance from where it was on the "
    "same facts before any edit; perplexity on held-out text is at least twice that of the "
    "unedited model, or not finite"
)
_CHANCE = 0.5
_GROWTH = 2.0


def signs_of_collapse(
    found: Mapping[str, float | None], start: Mapping[str, float | None]
) -> list[dict[str, Any]]:
    """The signs of collapse at one checkpoint.

    Args:
      found: `efficacy` and `neighborhood`, shares of success over the edits so far (None where
        no prompt tells), and `perplexity` (None where it is not finite).
      start: from where each has come: the best efficacy of the checkpoints before (None if there
        are none), and the others of the model before any edit.

    Returns:
      Of each sign its `metric`, the `value` found, and the `limit` that it passed. A share that
      has come from chance or below has no limit: an edit that never took is no collapse.

    Examples:
      >>> start = {"efficacy": 1.0, "neighborhood": 0.9, "perplexity": 5.0}
      >>> found = {"efficacy": 0.8, "neighborhood": 0.6, "perplexity": 9.9}
      >>> signs_of_collapse(found, start)
      [{'metric': 'neighborhood', 'value': 0.6, 'limit': 0.7}]
    """
    signs: list[dict[str, Any]] = []
    for name in ("efficacy", "neighborhood"):
        value, origin = found[name], start[name]
        if value is None or origin is None or origin <= _CHANCE:
            continue
        if value < (limit := (origin + _CHANCE) / 2):
            signs.append({"metric": name, "value": value, "limit": limit})
    value, origin = found["perplexity"], start["perplexity"]
    if origin is not None and (value is None or value >= _GROWTH * origin):
        signs.append({"metric": "perplexity", "value": value, "limit": _GROWTH * origin})
    return signs


def onset(checkpoints: Sequence[tuple[int, list[dict[str, Any]]]]) -> dict[str, Any] | None:
    """Where collapse sets in; see `DEFINITION`.

    Args:
      checkpoints: numbers of edits and the signs at each, in order.

    Returns:
      `edits` and `signs` of that checkpoint, or None if the model holds to the end.

    Examples:
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
