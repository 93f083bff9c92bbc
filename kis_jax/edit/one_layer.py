"""Edits of one layer: facts asked for all at once, or one after another."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import numpy as np

from kis_jax.checkpoints.ledger import LayerLedger, replayed
from kis_jax.core.editing.filters import Anchor
from kis_jax.core.editing.replay import Asked
from kis_jax.core.geometry.spaces import Space
from kis_jax.edit.closed_forms import anchor_of, anchored, ask, editable, wanted_of
from kis_jax.edit.job import Job, Search, Written, failures, none_left, searches
from kis_jax.models.memory import edited, memory_kernel
from kis_jax.passes.targets.values import TargetValues


def write_layer(job: Job, targets: TargetValues) -> Written:
    """All facts by a closed form, their target values given."""
    layer, targets = job.layers[-1], job.anchored(targets)
    asked = asked_of(job, targets, _kernel(job), job.space(layer))
    weight = job.weight(targets)
    own, reasons = written(job, asked, failures(targets), weight)
    return Written({layer: own}, reasons, searches(targets), weight)


def write_in_turn(job: Job, on_fact: Callable[[int], None]) -> Written:
    """Each fact by a rank-one edit, its target value found on the model as it then is.

    What comes of it is the sequential edit of the target values found: keys do not depend on the
    memory of their own layer, so that all of it follows from the ledger as for "sequential".
    """
    layer = job.layers[-1]
    space, before = job.space(layer), _kernel(job)
    model, own = job.model, None
    anchor = _anchor_in_turn(job)
    rows: list[Asked] = []
    reasons: list[str | None] = []
    found: list[Search] = []
    for done, fact in enumerate(job.facts, 1):
        targets = anchored(job.target_values(model, [fact]), anchor)
        found += searches(targets)
        (reason,) = failures(targets)
        if reason is None:
            now = np.asarray(memory_kernel(model, layer), np.float64)
            asked = asked_of(job, targets, before, space, found_on=now)
            (reason,) = editable(asked, job.method)
            if reason is None:
                rows.append(asked)
                own = replayed(_joined(rows), job.method, None)
                model = edited(job.model, {layer: own.edit})
        reasons.append(reason)
        on_fact(done)
    if own is None:
        raise ValueError(none_left(reasons))
    return Written({layer: own}, reasons, found)


def asked_of(
    job: Job,
    targets: TargetValues,
    kernel: np.ndarray,
    space: Space,
    *,
    found_on: np.ndarray | None = None,
) -> Asked:
    """What target values ask of the last of the layers, its kernel being that before all edits.

    They were found on a model with another kernel, if that is given.
    """
    now = kernel if found_on is None else found_on
    if job.original_keys:
        values = targets.values
        if targets.settings.convention == "own":  # the same shift, at the prompt's own key
            values = targets.prompt_keys @ now + (values - targets.initial)
        return ask(kernel, targets.prompt_keys, values, space, written_along=targets.keys)
    return ask(kernel, *wanted_of(targets, now, space), space, filters=job.filters(kernel))


def written(
    job: Job, asked: Asked, reasons: Sequence[str | None], weight: float | None
) -> tuple[LayerLedger, list[str | None]]:
    """The edit of those facts that can be edited, and for each fact why it was left out.

    Raises:
      ValueError: if none can.
    """
    sound = np.flatnonzero([reason is None for reason in reasons])
    reasons = list(reasons)
    for row, reason in zip(sound, editable(asked.take(sound), job.method), strict=True):
        reasons[row] = reason
    kept = np.flatnonzero([reason is None for reason in reasons])
    if not len(kept):
        raise ValueError(none_left(reasons))
    return replayed(asked.take(kept), job.method, weight), reasons


def _anchor_in_turn(job: Job) -> Anchor | None:
    """Of a method whose values are found one after another: its pilot are all on the base."""
    if "anchor" not in job.recipe.filters or job.settings.anchor > 0:
        return anchor_of(job.method, job.settings, np.zeros((0, 1)))
    return anchor_of(job.method, job.settings, job.target_values(job.model, job.facts).values)


def _kernel(job: Job) -> np.ndarray:
    """Of the last of the layers, before all edits, `(d, m)` float64."""
    return np.asarray(memory_kernel(job.model, job.layers[-1]), np.float64)


def _joined(rows: Sequence[Asked]) -> Asked:
    return jax.tree.map(lambda *parts: np.concatenate(parts), *rows)
