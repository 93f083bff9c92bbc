"""What editing a layer would do, before any edit: what it displaces, and what of it would stand."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from kis_jax.core.host import float64_on_host
from kis_jax.core.ledger import Edit, Rule
from kis_jax.core.replay import Asked, independent, replay
from kis_jax.measure.closed_forms import Method, ask, layer_solver
from kis_jax.measure.collisions import gentle_order
from kis_jax.measure.edit_settings import EditSettings
from kis_jax.measure.probes import Probe
from kis_jax.measure.target_values import TargetValues

# The methods that are forecast; the others have no closed form on the unedited model.
PLANNED: tuple[Method, ...] = ("sequential", "constrained", "batch", "null-space")
# The displacement at which half of the neighborhood prompts are lost: fitted on the half of factlm's
# facts that docs/planning.md does not report on, within 0.04.
_HALF_LOST = 10.0
_RULES: dict[Method, Rule] = {
    "sequential": "sequential",
    "constrained": "constrained",
    "batch": "batch",
    "null-space": "null_space",
}


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
    """

    num_edits: int
    displacement: float
    kept: float
    effect: float

    @property
    def score(self) -> float:
        """Harmonic mean of the effect, and of the part of other knowledge that is expected to stay.

        That part is 1 / (1 + displacement / 10).
        """
        stays = 1 / (1 + self.displacement / _HALF_LOST)
        return 2 * self.effect * stays / (self.effect + stays) if self.effect > 0 else 0.0


@dataclasses.dataclass(frozen=True)
class LayerForecast:
    """Everything that a forecast of edits of one layer needs; NumPy float64.

    Attributes:
      asked: for each method planned, the facts as they are asked of this layer; NaN for one whose
        target value was not found.
      probabilities: `(n,)`, that the target values give to their targets; 0 where none was found.
      probe: what should be left alone.
      weights: the penalty of each method that has one.
    """

    asked: dict[Method, Asked]
    probabilities: np.ndarray
    probe: Probe
    weights: dict[Method, float]

    @property
    def superposition(self) -> np.ndarray:
        """P of the facts, `(n, n)`."""
        gram = self.asked["sequential"].keys @ self.asked["sequential"].solved.T
        return np.asarray(gram / np.diag(gram)[:, None])

    def order(self) -> np.ndarray:
        """The order of sequential edits that spoils the least of them; see `gentle_order`."""
        asked = self.asked["sequential"]
        own = np.sum(asked.keys * asked.solved, axis=1)
        return gentle_order(own, np.linalg.norm(asked.requested, axis=1))

    def outlook(self, method: Method, order: Sequence[int] | np.ndarray) -> Outlook:
        """What is foreseen if the facts of `order` are edited, in that order.

        Facts whose target value was not found, and for "constrained" those whose keys depend on
        earlier ones, are left out of the edit, and count as without effect.
        """
        order = np.asarray(order)
        edit, made = self._edit(method, order)
        if edit is None:
            return Outlook(len(order), 0.0, 0.0, 0.0)
        asked = self.asked[method].take(made)
        moved = (self.probe.keys @ edit.directions.T) @ edit.residuals
        ends = (asked.keys @ edit.directions.T) @ edit.residuals
        lengths = np.sum(asked.requested**2, axis=1)
        along = np.sum(ends * asked.requested, axis=1)
        kept = np.clip(along / np.where(lengths > 0, lengths, 1), 0, 1)
        displaced = self.probe.displacement(moved).mean()
        effect = np.sum(kept * self.probabilities[made]) / len(order)
        return Outlook(len(order), float(displaced), float(kept.mean()), float(effect))

    def edits_within(self, method: Method, order: np.ndarray, bound: float) -> int:
        """How many edits, in an order, keep the displacement within a bound.

        By halving: displacement grows with the number of edits, if not at every single one.
        """
        low, high = 0, len(order) + 1
        while high - low > 1:
            middle = (low + high) // 2
            inside = self.outlook(method, order[:middle]).displacement <= bound
            low, high = (middle, high) if inside else (low, middle)
        return low

    def _edit(self, method: Method, order: np.ndarray) -> tuple[Edit | None, np.ndarray]:
        """The edit of those facts that can be edited, as NumPy arrays; and which they are."""
        asked = self.asked[method]
        made = order[np.isfinite(asked.requested[order]).all(axis=1)]
        with float64_on_host():
            if method == "constrained" and len(made):
                made = made[np.asarray(independent(_jax(asked.take(made))))]
            if not len(made):
                return None, made
            edit = replay(_jax(asked.take(made)), _RULES[method], weight=self.weights.get(method))
            return jax.tree.map(np.asarray, edit), made


def forecast_layer(
    targets: TargetValues,
    kernel: np.ndarray,
    second_moment: np.ndarray,
    probe: Probe,
    settings: EditSettings,
    *,
    methods: Sequence[Method] = PLANNED,
    ridge: float = 0.0,
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

    Raises:
      ValueError: if C is not positive definite, or a method has no forecast.
    """
    unknown = [method for method in methods if method not in _RULES]
    if unknown:
        raise ValueError(
            f"methods: expected some of {', '.join(_RULES)}, found {unknown[0]!r}, which has no "
            "closed form to forecast from"
        )
    solve = layer_solver(second_moment, "sequential", ridge=ridge)
    common = ask(kernel, targets.keys, targets.values, solve)
    asked = dict.fromkeys(("sequential", *methods), common)
    if asked.pop("null-space", None) is not None:
        try:
            free = layer_solver(second_moment, "null-space", threshold=settings.null_threshold)
            asked["null-space"] = ask(kernel, targets.keys, targets.values, free)
        except ValueError:  # ordinary text leaves no direction free: not a method for this layer
            pass
    weights: dict[Method, float] = {
        "batch": settings.batch_weight,
        "null-space": settings.null_ridge,
    }
    return LayerForecast(asked, np.nan_to_num(targets.probabilities), probe, weights)


def _jax(asked: Asked) -> Asked:
    return jax.tree.map(jnp.asarray, asked)
