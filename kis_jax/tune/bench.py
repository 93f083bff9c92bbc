"""Edits that are tried at one layer, and what became of the facts."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerFast

from kis_jax.checkpoints.ledger import rule_of
from kis_jax.core.arrays.precision import HOST
from kis_jax.core.editing.interference import text_damage
from kis_jax.core.editing.replay import Asked, replay
from kis_jax.core.geometry.spaces import Space
from kis_jax.data.facts import Fact
from kis_jax.data.neighbors import without_edited_neighbors
from kis_jax.edit.closed_forms import ask, editable, space_of, wanted_of, weight_of
from kis_jax.models import Decoder
from kis_jax.models.memory import memory_kernel
from kis_jax.passes.scores.measures import KINDS, Evaluation
from kis_jax.passes.targets.settings import EditSettings
from kis_jax.passes.targets.values import TargetValues, joined, target_values
from kis_jax.tune.trials import Trials

LEVELS = (0.5, 0.65, 0.8, 0.9)
"""Probabilities at which v* may stop, all of them looked at in one search.

None is less than a half, from which on a target of one token is likelier than any other.
"""
MOST_LOST_ALONE, MOST_LOST_TOGETHER = 0.03, 0.06
"""Of the neighborhood: by a fact that is edited alone, and by ten together."""
_LEAST_EFFICACY = 0.99
_SURE = 1.645  # standard errors: of one side, 95 %
_TOGETHER = 10


@dataclasses.dataclass(frozen=True)
class Trial:
    """What some settings did to the facts of the pilot.

    Attributes:
      settings: that were tried, by name.
      num_edits: in one model: 1, each fact alone, or several together.
      efficacy: of each fact, `(n,)`, as are the next two.
      paraphrase: NaN where there is none.
      neighborhood: likewise.
      lost: of the unedited model's neighborhood, `(n,)`; negative if it has grown.
      damage: foreseen to ordinary text from C, the mean over edits that are made alone; see
        `kis_jax.core.editing.interference.text_damage`.
      seconds: that it took.
    """

    settings: dict[str, Any]
    num_edits: int
    efficacy: np.ndarray
    paraphrase: np.ndarray
    neighborhood: np.ndarray
    lost: np.ndarray
    damage: float
    seconds: float

    @property
    def score(self) -> float:
        """The harmonic mean of the three, less five times what passes the bounds.

        The bounds: an efficacy of .99; a loss of .03 of the neighborhood for single edits, of .06
        for several, by the upper end of its interval (95 %, of one side): few facts lose much, most
        nothing, and a pilot that has met none of the few would write too strongly.
        """
        parts = [float(np.nanmean(getattr(self, kind))) for kind in KINDS if self._has(kind)]
        if min(parts) <= 0:
            return 0.0
        most = MOST_LOST_ALONE if self.num_edits == 1 else MOST_LOST_TOGETHER
        beyond = max(0.0, lost_by(self) + _SURE * _error(self.lost) - most) + max(
            0.0, _LEAST_EFFICACY - parts[0]
        )
        return len(parts) / sum(1 / part for part in parts) - 5 * beyond

    def without(self, fact: int) -> Trial:
        """The trial as it would have been without one of its facts."""
        columns = {name: np.delete(getattr(self, name), fact) for name in (*KINDS, "lost")}
        return dataclasses.replace(self, **columns)

    def record(self) -> dict[str, Any]:
        """Plain JSON: means with their standard errors."""
        told: dict[str, Any] = {**self.settings, "num_edits": self.num_edits}
        for kind in (*KINDS, "lost"):
            column = getattr(self, kind)
            column = column[np.isfinite(column)]
            told[kind] = float(column.mean()) if len(column) else None
            told[f"{kind}_error"] = _error(column) if len(column) else None
        told |= {"damage": self.damage if np.isfinite(self.damage) else None, "score": self.score}
        return {**told, "num_facts": len(self.efficacy), "seconds": round(self.seconds, 1)}

    def _has(self, kind: str) -> bool:
        return bool(np.isfinite(getattr(self, kind)).any())


class Bench:
    """One layer on which edits are tried: its facts with their values, and what is asked of them.

    Attributes:
      layer: its index.
      facts: of the pilot.
    """

    def __init__(
        self,
        model: Decoder,
        tokenizer: PreTrainedTokenizerFast,
        facts: Sequence[Fact],
        layer: int,
        settings: EditSettings,
        second_moment: np.ndarray,
        prefixes: Sequence[str],
        earlier: Bench | None = None,
    ) -> None:
        """Seeks the facts' values at all levels, and runs all questions up to the layer.

        Args:
          model: a decoder.
          tokenizer: of the model.
          facts: of the pilot.
          layer: its index.
          settings: what is not searched for.
          second_moment: C of the layer, `(d, d)`.
          prefixes: before the prompts.
          earlier: of the same layer and the first of the facts, whose values are not sought again.

        Raises:
          ValueError: if the second moment has no inverse.
        """
        self.layer, self.facts = layer, tuple(facts)
        self._model, self._tokenizer = model, tokenizer
        self._settings, self._second_moment = settings, second_moment
        self._kernel = np.asarray(memory_kernel(model, layer), np.float64)
        self._space = (
            space_of(second_moment, "constrained", settings) if earlier is None else earlier._space
        )
        done = 0 if earlier is None else len(earlier.facts)
        targets = target_values(
            model,
            tokenizer,
            facts[done:],
            layer=layer,
            settings=dataclasses.replace(settings.target, stop_at=max(LEVELS)),
            prefixes=prefixes,
            levels=LEVELS,
        )
        self._targets = targets if earlier is None else joined(earlier._targets, targets)
        self._trials = Trials(model, tokenizer, self.facts, layer)
        nothing = np.zeros((len(facts), self._kernel.shape[0]))
        self._before, _ = self._trials.alone(nothing, np.zeros((len(facts), model.config.width)))

    @functools.cached_property
    def _joint(self) -> tuple[Trials, Evaluation]:
        """The questions about the facts that are edited together, and the unedited answers."""
        few = without_edited_neighbors(self.facts[:_TOGETHER])
        trials = Trials(self._model, self._tokenizer, few, self.layer)
        return trials, trials.together(np.zeros_like(self._kernel))[0]

    @functools.cached_property
    def _free(self) -> dict[float, Space]:
        return {}

    def alone(self, level: int) -> Trial:
        """Each fact alone, by the rank-one edit that all closed forms share."""
        began = time.monotonic()
        asked = self._asked(level, self._space)
        own = np.sum(asked.keys * asked.solved, axis=1)
        sound = np.isfinite(own) & (own > 0) & np.isfinite(asked.initial_residuals).all(axis=1)
        along = np.where(sound[:, None], asked.solved, 0) / np.where(sound, own, 1)[:, None]
        residuals = np.where(sound[:, None], asked.initial_residuals, 0)
        found, _ = self._trials.alone(along, residuals)
        settings = {"layer": self.layer, "target.stop_at": LEVELS[level]}
        c, kernel = self._second_moment, self._kernel
        energy = np.sum((along @ c) * along, axis=1) * np.sum(residuals**2, axis=1)
        damage = float(np.mean(energy) / np.sum(kernel * (c @ kernel)))
        return _trial(settings, 1, found, self._before, damage, began)

    def together(self, level: int, method: str, settings: EditSettings) -> Trial:
        """The first ten facts in one model, by a method."""
        began = time.monotonic()
        space = self._space if method != "null-space" else self._free_space(settings)
        asked = self._asked(level, space).take(np.arange(min(_TOGETHER, len(self.facts))))
        kept = np.flatnonzero([reason is None for reason in _reasons(asked, method)])
        keys = np.asarray(self._targets.prompt_keys, np.float64)[: len(asked)]
        weight = weight_of(method, settings, space, keys)
        delta, damage = np.zeros_like(self._kernel), 0.0
        if len(kept):
            edit = HOST.run(replay, asked.take(kept), rule_of(method), weight=weight)
            delta = np.asarray(edit.delta)
            damage = float(HOST.run(text_damage, edit, self._kernel, self._second_moment))
        trials, before = self._joint
        found, _ = trials.together(delta)
        named = {"layer": self.layer, "target.stop_at": LEVELS[level], "method": method}
        if method == "batch":
            named["weight"] = settings.weight
        if method == "null-space":
            named |= {"null_space": settings.null_space, "null_ridge": settings.null_ridge}
        return _trial(named, len(asked), found, before, damage, began)

    def _asked(self, level: int, space: Space) -> Asked:
        targets: TargetValues = self._targets
        values = targets.initial + targets.noted[level]
        found = dataclasses.replace(targets, values=values)
        return ask(self._kernel, *wanted_of(found, self._kernel, space), space)

    def _free_space(self, settings: EditSettings) -> Space:
        if settings.null_space not in self._free:
            self._free[settings.null_space] = space_of(self._second_moment, "null-space", settings)
        return self._free[settings.null_space]


def gentlest(trials: Sequence[Trial]) -> Trial:
    """The weakest that the facts cannot tell from the best, by the rule of one standard error.

    Breiman et al. 1984, section 3.4.3; the error is that of the difference of the two scores, by
    the jackknife over facts. None has a lower efficacy than the best.

    Args:
      trials: of the same facts, the weakest first.
    """
    best = max(trials, key=lambda trial: trial.score)
    number = len(best.efficacy)
    for trial in trials:
        if np.nanmean(trial.efficacy) < np.nanmean(best.efficacy):
            continue
        behind = best.score - trial.score
        others = [best.without(i).score - trial.without(i).score for i in range(number)]
        if number > 1 and behind <= np.sqrt(number - 1) * np.std(others):
            return trial
    return best


def _reasons(asked: Asked, method: str) -> list[str | None]:
    """For each fact why it cannot be edited, one without a target value among them."""
    sound = np.isfinite(np.asarray(asked.initial_residuals)).all(axis=1)
    sound &= np.isfinite(np.asarray(asked.keys)).all(axis=1)
    reasons: list[str | None] = ["no target value"] * len(asked)
    places = np.flatnonzero(sound)
    for place, reason in zip(places, editable(asked.take(places), method), strict=True):
        reasons[place] = reason
    return reasons


def _trial(
    settings: dict[str, Any],
    num_edits: int,
    found: Evaluation,
    before: Evaluation,
    damage: float,
    began: float,
) -> Trial:
    return Trial(
        settings,
        num_edits,
        *(getattr(found, kind) for kind in KINDS),
        lost=before.neighborhood - found.neighborhood,
        damage=damage,
        seconds=time.monotonic() - began,
    )


def _error(column: np.ndarray) -> float:
    """Standard error of the mean of what is finite; 0 where nothing is."""
    column = column[np.isfinite(column)]
    return float(column.std() / np.sqrt(len(column))) if len(column) else 0.0


def lost_by(trial: Trial) -> float:
    """Mean loss of neighborhood, 0 where no fact has any."""
    return float(np.nanmean(trial.lost)) if np.isfinite(trial.lost).any() else 0.0
