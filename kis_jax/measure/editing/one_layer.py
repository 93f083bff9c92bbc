"""Edits of one layer: facts asked for all at once, or one after another."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import numpy as np

from kis_jax.checkpoints.ledger import LayerLedger, replayed
from kis_jax.core.replay import Asked
from kis_jax.measure.editing.closed_forms import Solver, ask, editable
from kis_jax.measure.editing.job import Job, Search, Written, failures, none_left, searches
from kis_jax.measure.targets.values import TargetValues
from kis_jax.models.memory import memory_kernel, with_memory


def write_layer(job: Job, targets: TargetValues) -> Written:
    """All facts by a closed form, their target values given."""
    layer = job.layers[-1]
    asked = asked_of(job, targets, _kernel(job), job.solver(layer))
    own, reasons = written(job, asked, failures(targets))
    return Written({layer: own}, reasons, searches(targets))


def write_in_turn(job: Job, on_fact: Callable[[int], None]) -> Written:
    """Each fact by a rank-one edit, its target value found on the model as it then is.

    What comes of it is the sequential edit of the target values found: keys do not depend on the
    memory of their own layer, so that all of it follows from the ledger as for "sequential".
    """
    layer = job.layers[-1]
    solve, before = job.solver(layer), _kernel(job)
    model, kernel = job.model, before
    rows: list[Asked] = []
    reasons: list[str | None] = []
    found: list[Search] = []
    for done, fact in enumerate(job.facts, 1):
        targets = job.target_values(model, [fact])
        found += searches(targets)
        (reason,) = failures(targets)
        if reason is None:
            asked = asked_of(job, targets, before, solve)
            (reason,) = editable(asked, job.method)
            if reason is None:
                rows.append(asked)
                along = asked.solved / np.sum(asked.keys * asked.solved)
                kernel = kernel + along.T @ (asked.requested - asked.keys @ (kernel - before))
                model = with_memory(job.model, {layer: kernel})
        reasons.append(reason)
        on_fact(done)
    everything = _joined(rows) if rows else None
    if everything is None:
        raise ValueError(none_left(reasons))
    return Written({layer: replayed(everything, job.method, job.weight)}, reasons, found)


def asked_of(job: Job, targets: TargetValues, kernel: np.ndarray, solve: Solver) -> Asked:
    """What target values ask of the last of the layers, its kernel being that before all edits."""
    if job.original_keys:
        return ask(kernel, targets.prompt_keys, targets.values, solve, written_along=targets.keys)
    return ask(kernel, targets.keys, targets.values, solve)


def written(
    job: Job, asked: Asked, reasons: Sequence[str | None]
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
    return replayed(asked.take(kept), job.method, job.weight), reasons


def _kernel(job: Job) -> np.ndarray:
    """Of the last of the layers, before all edits, `(d, m)` float64."""
    return np.asarray(memory_kernel(job.model, job.layers[-1]), np.float64)


def _joined(rows: Sequence[Asked]) -> Asked:
    return jax.tree.map(lambda *parts: np.concatenate(parts), *rows)
