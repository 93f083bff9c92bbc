"""Fine-tuning as a method of editing: an update of full rank, in the form of a ledger."""

from __future__ import annotations

from typing import Any

import numpy as np

from kis_jax.checkpoints.ledger import LayerLedger
from kis_jax.core.editing.ledger import Edit
from kis_jax.edit.finetune import finetune
from kis_jax.edit.job import Job, Search, Written
from kis_jax.models.memory import memory_kernel


def write_tuned(job: Job) -> Written:
    """All facts by gradient steps on the kernel of the one layer."""
    layer = job.layers[-1]
    tuned = finetune(
        job.model, job.tokenizer, job.facts, layer=layer, token_budget=job.token_budget
    )
    before = np.asarray(memory_kernel(job.model, layer), np.float64)
    edit = _in_rows(tuned.kernel.astype(np.float64) - before)
    found = [Search(float(loss), float(np.exp(-loss)), tuned.steps) for loss in tuned.losses]
    return Written({layer: LayerLedger(edit, None)}, [None] * len(job.facts), found)


def _in_rows(delta: np.ndarray) -> Edit:
    """An update `(d, m)` of full rank as an edit of as few rows as it has: the smaller side."""
    d, m = delta.shape
    rows: Any = (delta.T, np.eye(m)) if m <= d else (np.eye(d), delta)
    return Edit(*rows, initial_residuals=None, rule="batch")
