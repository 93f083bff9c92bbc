"""What is measured at the checkpoints of a lifelong run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from kis_jax.core.arrays.products import lengths
from kis_jax.lifelong.collapse import signs_of_collapse
from kis_jax.lifelong.courses import ClosedFormCourse, Course
from kis_jax.lifelong.displacement import displacement
from kis_jax.lifelong.inputs import LifelongInputs
from kis_jax.lifelong.layer import EditedLayer
from kis_jax.lifelong.store import Saved
from kis_jax.models import Decoder, Model
from kis_jax.models.memory import memory_kernel, with_memory
from kis_jax.passes.intervals import mean_intervals
from kis_jax.passes.not_finite import NotFiniteError
from kis_jax.passes.scores.fluency import fluency
from kis_jax.passes.scores.generated import generated_scores
from kis_jax.passes.scores.measures import KINDS, evaluate
from kis_jax.passes.scores.perplexity import perplexity

# Facts about whom text is generated at a checkpoint, the first ones; generating is slow.
_MOST_GENERATED = 50

Measured = TypeVar("Measured")

Probe = Callable[[Model], Mapping[str, float]]
"""Of a model: numbers of any kind, by their names."""


class Checks:
    """Measures edited models, each against the unedited one on the same facts and text."""

    def __init__(
        self, inputs: LifelongInputs, model: Decoder, layer: EditedLayer, probe: Probe
    ) -> None:
        """Prepares; `compare_with` must follow before the first checkpoint."""
        self._inputs = inputs
        self._model = model
        self._layer = layer
        self._probe = probe

    def unedited(self) -> Saved:
        """What the unedited model makes of all facts that any checkpoint asks of, and of text."""
        rows = np.unique(np.concatenate([self._rows(step) for step in self._inputs.steps]))
        model = self._model
        about = {
            "perplexity": self._perplexity(model),
            "fluency": self._fluency(model),
            "probes": self._probes(model),
        }
        return Saved({"rows": rows, **self._measures(model, rows)}, about)

    def compare_with(self, unedited: Saved) -> None:
        """Takes what `unedited` gave as what edited models are compared with."""
        self._unedited = unedited

    def checkpoint(
        self, method: str, course: Course, block: slice, earlier: Sequence[Mapping[str, Any]]
    ) -> dict[str, Any]:
        """All that is measured after a block of edits, plain JSON values.

        Args:
          method: of editing.
          course: of the method, the block being its last.
          block: of facts.
          earlier: what this gave at the checkpoints before.
        """
        with np.errstate(over="ignore"):  # what float32 cannot hold is told as such
            model = with_memory(self._model, {self._inputs.layer: course.kernel})
        rows = self._rows(block.stop)
        found = _unless_broken(
            lambda: self._measures(model, rows),
            {name: np.full(len(rows), np.nan) for name in self._measure_names},
        )
        metrics = mean_intervals(found, combined=KINDS)
        for name, part in (("retention", rows < block.start), ("latest", rows >= block.start)):
            metrics |= mean_intervals({name: found["efficacy"][part]})
        before = self._unedited.arrays
        same = np.isin(before["rows"], rows)
        unedited = mean_intervals({kind: before[kind][same] for kind in KINDS})
        compared = {name: entry["mean"] for name, entry in unedited.items()}
        unknown = _unless_broken(lambda: self._perplexity(model), None)
        told = {name: metrics[name]["mean"] for name in ("efficacy", "neighborhood")}
        best = (point["metrics"]["efficacy"]["mean"] for point in earlier)
        start = {
            "efficacy": max((value for value in best if value is not None), default=None),
            "neighborhood": compared["neighborhood"],
            "perplexity": self._unedited.about["perplexity"],
        }
        return {
            "edits": block.stop,
            "made": block.stop - len(course.left_out),
            "metrics": metrics,
            "lost": self._lost(rows, found["efficacy"], course),
            "unedited": compared,
            "perplexity": unknown,
            "fluency": _unless_broken(lambda: self._fluency(model), None),
            "probes": self._probes(model),
            **self._moved(method, course, model),
            "signs": signs_of_collapse({**told, "perplexity": unknown}, start),
        }

    def _lost(self, rows: np.ndarray, efficacy: np.ndarray, course: Course) -> list[int]:
        """Facts looked at that had been edited, and whose new target is no longer the likelier."""
        made = ~np.isin(rows, list(course.left_out))
        return [int(row) for row in rows[made & (efficacy < 0.5)]]

    @property
    def _measure_names(self) -> list[str]:
        return [name for name in self._unedited.arrays if name != "rows"]

    def _rows(self, edits: int) -> np.ndarray:
        """Places of the facts that are scored after so many edits, spread evenly over them."""
        most = self._inputs.request.most_evaluated
        if most is None or edits <= most:
            return np.arange(edits)
        return np.unique(np.linspace(0, edits - 1, most).round().astype(int))

    def _measures(self, model: Decoder, rows: np.ndarray) -> dict[str, np.ndarray]:
        facts = [self._inputs.scored[row] for row in rows]
        scan = self._inputs.scan
        found = evaluate(model, scan.tokenizer, facts, token_budget=scan.token_budget).measures()
        if self._inputs.request.generated:
            found |= generated_scores(model, scan.tokenizer, facts)
        return found

    def _perplexity(self, model: Decoder) -> float | None:
        scan, text = self._inputs.scan, self._inputs.text
        return _plain(perplexity(model, scan.tokenizer, text, token_budget=scan.token_budget))

    def _fluency(self, model: Decoder) -> float | None:
        """Of what is written about the first subjects; None if that was not asked for."""
        if not self._inputs.request.fluency:
            return None
        facts = self._inputs.facts[:_MOST_GENERATED]
        found = fluency(model, self._inputs.scan.tokenizer, facts)
        found = found[np.isfinite(found)]
        return _plain(found.mean()) if len(found) else None

    def _probes(self, model: Decoder) -> dict[str, float | None]:
        asked = {} if self._inputs.probe is None else self._inputs.probe(model)
        return {name: _plain(value) for name, value in {**asked, **self._probe(model)}.items()}

    @np.errstate(over="ignore", invalid="ignore")
    def _moved(self, method: str, course: Course, model: Decoder) -> dict[str, Any]:
        """What was added to the kernel, as the model has it, and what that moved."""
        before, after = self._layer.kernel, self._kernel(model)
        norm, size = (float(lengths(x.ravel())) for x in (after - before, before))
        return {
            "update": {"norm": _plain(norm), "relative": _plain(np.float64(norm) / size)},
            "interference": self._interference(method, course, after),
        }

    def _interference(
        self, method: str, course: Course, after: np.ndarray
    ) -> dict[str, dict[str, float | int | None]]:
        """How far values moved, recomputed from the kernel of the edited model, and foreseen."""
        before = self._layer.kernel
        told, foreseen = {}, [None] * len(self._layer.bystanders)
        if isinstance(course, ClosedFormCourse) and len(course.asked[0]):
            of_edited, *foreseen = self._layer.foreseen(method, course)
            keys, values = course.asked
            requested = values - keys @ before
            told["edited"] = displacement(
                keys @ after - values, of_edited - requested, lengths(requested)
            )
        for (kind, keys), predicted in zip(self._layer.bystanders.items(), foreseen, strict=True):
            value = keys @ before
            told[kind] = displacement(keys @ after - value, predicted, lengths(value))
        return told

    def _kernel(self, model: Decoder) -> np.ndarray:
        return np.asarray(memory_kernel(model, self._inputs.layer), np.float64)


def _unless_broken(measure: Callable[[], Measured], otherwise: Measured) -> Measured:
    """What is measured; or something else, if the model's numbers are beyond float32."""
    try:
        return measure()
    except NotFiniteError:
        return otherwise


def _plain(value: float | np.floating) -> float | None:
    return float(value) if np.isfinite(value) else None
