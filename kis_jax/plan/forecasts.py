"""What editing a layer would do, before any edit: what it displaces, and what of it would stand."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from kis_jax.checkpoints.ledger import rule_of
from kis_jax.core.arrays.precision import HOST, Inverse
from kis_jax.core.arrays.products import lengths
from kis_jax.core.editing.interference import interference
from kis_jax.core.editing.ledger import Edit
from kis_jax.core.editing.recipes import methods_named, recipe
from kis_jax.core.editing.replay import Asked, independent, replay
from kis_jax.core.geometry.spaces import Space
from kis_jax.edit.closed_forms import (
    anchor_of,
    anchored,
    ask,
    dropped_of,
    filters_of,
    space_of,
    wanted_of,
    weight_of,
)
from kis_jax.passes.collisions import gentle_order
from kis_jax.passes.targets.settings import EditSettings
from kis_jax.passes.targets.values import TargetValues
from kis_jax.plan.probes import Probe

# The methods that are forecast, with any filters; the others have no closed form on the unedited
# model.
PLANNED = (
    *("sequential", "constrained", "batch", "null-space"),
    *("batch-anew", "lyaplock", "evoedit", "betaedit"),
)
UNPLANNED = "; others have no closed form to forecast from"
# The displacement at which half of the neighborhood prompts are lost: fitted, within 0.04, on that
# half of factlm's facts on which docs/planning.md does not report.
_HALF_LOST = 10.0


@dataclasses.dataclass(frozen=True)
class Outlook:
    """What is foreseen after the first t edits of some facts.

    Attributes:
      num_edits: t.
      displacement: of texts to be left alone, the mean of `Probe.displacement`.
      kept: mean over the t facts of the part of what was asked that stands in the end, 0 to 1:
        the move of a fact's value along the move that was asked for, as a share of it.
      effect: the same, each fact weighted by the probability that its target value gives to its
        target: what may be hoped for of the edits. A fact that cannot be edited has none.
      carried: the same in other words: of a paraphrase, the greatest part of the move asked for
        that any of its tokens makes. That of the effect where there are no paraphrases.
    """

    num_edits: int
    displacement: float
    kept: float
    effect: float
    carried: float

    @property
    def score(self) -> float:
        """What is foreseen of the literature's score: a harmonic mean of three parts.

        The effect, how far it carries to other words, and the part of other knowledge that is
        expected to stay, 1 / (1 + displacement / 10).
        """
        parts = (self.effect, self.carried, 1 / (1 + self.displacement / _HALF_LOST))
        return 3 / sum(1 / part for part in parts) if min(parts) > 0 else 0.0


@dataclasses.dataclass(frozen=True)
class LayerForecast:
    """Everything that a forecast of edits of one layer needs; NumPy float64.

    Attributes:
      asked: for each method planned, the facts as they are asked of this layer; NaN for one whose
        target value was not found.
      probabilities: `(n,)`, that the target values give to their targets; 0 where none was found.
      probe: what should be left alone.
      weights: the penalty of each method that has one.
      paraphrases: of the facts; None if there are none.
      paraphrased: which fact each text of `paraphrases` asks for, `(texts,)` int.
      dropped: directions that were dropped of the second moment.
    """

    asked: dict[str, Asked]
    probabilities: np.ndarray
    probe: Probe
    weights: dict[str, float]
    paraphrases: Probe | None = None
    paraphrased: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, int))
    dropped: int = 0

    @property
    def superposition(self) -> np.ndarray:
        """P of the facts, `(n, n)`; NaN in the row of one whose key has no share."""
        with np.errstate(invalid="ignore"):
            return HOST.run(lambda asked: asked.superposition, self.asked["sequential"])

    def order(self) -> np.ndarray:
        """The order of sequential edits that spoils the least of them; see `gentle_order`."""
        asked = self.asked["sequential"]
        own = np.sum(asked.keys * asked.solved, axis=1)
        own = np.where(own > 0, own, np.nan)  # last of all, those without a share
        return gentle_order(own, lengths(np.asarray(asked.initial_residuals)))

    def outlook(self, method: str, order: Sequence[int] | np.ndarray) -> Outlook:
        """What is foreseen if the facts of `order` are edited, in that order.

        Facts whose target value was not found or whose key has no share, and for "constrained"
        those whose keys depend on earlier ones, are left out of the edit, and count as without
        effect.
        """
        order = np.asarray(order)
        edit, made = self.edit(method, order)
        if edit is None:
            return Outlook(len(order), 0.0, 0.0, 0.0, 0.0)
        asked = self.asked[method].take(made)
        moved = self.probe.moved(edit)
        ends = HOST.run(interference, edit, asked.keys)
        requested = np.asarray(self.asked[method].initial_residuals)
        kept = _part_made(ends, requested[made])
        displaced = self.probe.displacement(moved).mean()
        effect = float(np.sum(kept * self.probabilities[made]) / len(order))
        carried = self._carried(edit, requested, order, made)
        return Outlook(
            num_edits=len(order),
            displacement=float(displaced),
            kept=float(kept.mean()),
            effect=effect,
            carried=effect if carried is None else carried,
        )

    def displaced(self, method: str, order: Sequence[int] | np.ndarray) -> np.ndarray:
        """How far each text to be left alone is displaced by these edits, `(texts,)`.

        The mean of it is `Outlook.displacement`. Of all that is known before an edit, this tells
        best which answers will lose most; docs/real_models.md has how well.
        """
        edit, _ = self.edit(method, order)
        if edit is None:
            return np.zeros(int(self.probe.text.max(initial=-1)) + 1)
        return self.probe.displacement(self.probe.moved(edit))

    def edits_within(self, method: str, order: np.ndarray, bound: float) -> int:
        """How many edits, in an order, keep the displacement within a bound.

        By halving: displacement grows with the number of edits, if not at every single one.
        """
        low, high = 0, len(order) + 1
        while high - low > 1:
            middle = (low + high) // 2
            inside = self.outlook(method, order[:middle]).displacement <= bound
            low, high = (middle, high) if inside else (low, middle)
        return low

    def _carried(
        self, edit: Edit, requested: np.ndarray, order: np.ndarray, made: np.ndarray
    ) -> float | None:
        """`Outlook.carried`; None if none of the facts in `order` has a paraphrase."""
        asked_for = np.isin(self.paraphrased, order)
        if self.paraphrases is None or not asked_for.any():
            return None
        probe, fact = self.paraphrases, self.paraphrased[self.paraphrases.text]
        tokens = np.isin(fact, made)
        moved = probe.moved(edit, tokens)
        part = np.zeros(len(fact))
        part[tokens] = _part_made(moved, requested[fact[tokens]])
        carried = probe.greatest(part) * self.probabilities[self.paraphrased]
        return float(carried[asked_for].mean())

    def edit(
        self, method: str, order: Sequence[int] | np.ndarray
    ) -> tuple[Edit | None, np.ndarray]:
        """The edit that is forecast, as NumPy arrays, and which facts of `order` it is of.

        None if none of them can be edited.
        """
        order = np.asarray(order)
        asked = self.asked[method]
        own = np.sum(asked.keys * asked.solved, axis=1)
        made = order[np.isfinite(asked.initial_residuals[order]).all(axis=1) & ~(own[order] <= 0)]
        if recipe(method).base.rule in ("constrained", "shrinking") and len(made):
            made = made[HOST.run(independent, asked.take(made))]
        if not len(made):
            return None, made
        weight = self.weights.get(method)
        return HOST.run(replay, asked.take(made), rule_of(method), weight=weight), made


def forecast_layer(
    targets: TargetValues,
    kernel: np.ndarray,
    second_moment: np.ndarray,
    probe: Probe,
    settings: EditSettings,
    *,
    methods: Sequence[str] = PLANNED[:4],
    ridge: float = 0.0,
    inverse: Inverse = "auto",
    paraphrases: Probe | None = None,
    paraphrased: Sequence[int] = (),
) -> LayerForecast:
    """Brings together what a forecast of edits of one layer needs.

    Args:
      targets: of the facts, for this layer.
      kernel: of the layer's memory, `(d, m)`.
      second_moment: C of the layer, `(d, d)`.
      probe: of texts to be left alone, at this layer.
      settings: of the methods.
      methods: to be forecast; "sequential" always is, and "null-space" is not where ordinary text
        leaves no direction free.
      ridge: added to the diagonal of C.
      inverse: how C is inverted; see `Precision.whitener`.
      paraphrases: of the prompts of the facts, at this layer; None if there are none.
      paraphrased: which fact each of them asks for.

    Raises:
      ValueError: if C is not positive definite, or a method has no forecast.
    """
    methods = methods_named(methods, PLANNED, UNPLANNED) if methods else ()
    space = space_of(second_moment, "sequential", settings, ridge=ridge, inverse=inverse)
    spaces: dict[str, Space | None] = {"text": space}
    asked: dict[str, Asked] = {}
    weights: dict[str, float] = {}
    prompt_keys = np.asarray(targets.prompt_keys, np.float64)
    for method in ("sequential", *methods):
        where = recipe(method).base.where
        if where not in spaces:
            try:
                spaces[where] = space_of(second_moment, method, settings)
            except ValueError:  # text leaves no direction free: not a method for this layer
                spaces[where] = None
        own = spaces[where]
        if own is None:
            continue
        wanted = anchored(targets, anchor_of(method, settings, targets.values))
        filters = filters_of(method, settings, kernel)
        asked[method] = ask(kernel, *wanted_of(wanted, kernel, own), own, filters=filters)
        if (weight := weight_of(method, settings, own, prompt_keys)) is not None:
            weights[method] = weight
    return LayerForecast(
        asked,
        np.nan_to_num(targets.probabilities),
        probe,
        weights,
        paraphrases,
        np.asarray(paraphrased, int),
        dropped_of(space, "sequential"),
    )


def _part_made(moved: np.ndarray, requested: np.ndarray) -> np.ndarray:
    """The part of each move asked for that was made along it, 0 to 1."""
    squares = np.sum(requested**2, axis=1)
    return np.clip(np.sum(moved * requested, axis=1) / np.where(squares > 0, squares, 1), 0, 1)
