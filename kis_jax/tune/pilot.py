"""The pilot: a few real edits at the best candidates, most of the time for those that do best."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerFast

from kis_jax.checkpoints.ledger import RULES
from kis_jax.core.arrays.precision import HOST
from kis_jax.core.editing.replay import Asked, replay
from kis_jax.core.geometry.second_moment import SecondMoment
from kis_jax.core.geometry.spaces import Space
from kis_jax.data.continuations import Continuation
from kis_jax.data.facts import Fact
from kis_jax.data.neighbors import without_edited_neighbors
from kis_jax.edit.closed_forms import Method, ask, editable, space_of, wanted_of, weight_of
from kis_jax.models import Decoder
from kis_jax.models.memory import memory_kernel
from kis_jax.passes.scores.measures import KINDS, Evaluation
from kis_jax.passes.targets.context_prefixes import default_prefixes
from kis_jax.passes.targets.settings import EditSettings
from kis_jax.passes.targets.values import TargetValues, target_values
from kis_jax.tune.trials import Trials

LEVELS = (0.3, 0.5, 0.7, 0.9)
"""Probabilities at which v* may stop, all of them looked at in one search."""
WEIGHTS = (0.02, 0.05, 0.15, 0.4)
SPACES = ((0.15, 0.02), (0.3, 0.02), (0.3, 0.1), (0.5, 0.1), (0.7, 0.1))
"""Of the null space: the share of text's energy, and the ridge."""
MOST_LOST_ALONE, MOST_LOST_TOGETHER = 0.03, 0.06
"""Of the neighborhood: by a fact that is edited alone, and by ten together."""
_LEAST_EFFICACY = 0.99
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
      text: mean change of log p of a token of unrelated text; NaN for edits made alone.
      seconds: that it took.
    """

    settings: dict[str, Any]
    num_edits: int
    efficacy: np.ndarray
    paraphrase: np.ndarray
    neighborhood: np.ndarray
    lost: np.ndarray
    text: float
    seconds: float

    @property
    def score(self) -> float:
        """The harmonic mean of the three, less five times what passes the bounds.

        The bounds: an efficacy of .99, or all but one fact of fewer than a hundred; a loss of .03
        of the neighborhood for single edits, of .06 for several.
        """
        parts = [float(np.nanmean(getattr(self, kind))) for kind in KINDS if self._has(kind)]
        if min(parts) <= 0:
            return 0.0
        most = MOST_LOST_ALONE if self.num_edits == 1 else MOST_LOST_TOGETHER
        lost = float(np.nanmean(self.lost)) if self._has("neighborhood") else 0.0
        beyond = max(0.0, lost - most) + max(0.0, _LEAST_EFFICACY - parts[0])
        return len(parts) / sum(1 / part for part in parts) - 5 * beyond

    def record(self) -> dict[str, Any]:
        """Plain JSON: means with their standard errors."""
        told: dict[str, Any] = {**self.settings, "num_edits": self.num_edits}
        for kind in (*KINDS, "lost"):
            column = getattr(self, kind)
            column = column[np.isfinite(column)]
            told[kind] = float(column.mean()) if len(column) else None
            told[f"{kind}_error"] = (
                float(column.std() / np.sqrt(len(column))) if len(column) else None
            )
        told |= {"text": self.text if np.isfinite(self.text) else None, "score": self.score}
        return {**told, "num_facts": len(self.efficacy), "seconds": round(self.seconds, 1)}

    def _has(self, kind: str) -> bool:
        return bool(np.isfinite(getattr(self, kind)).any())


class Bench:
    """One layer on which edits are tried: its facts with their values, and what is asked of them.

    Attributes:
      layer: its index.
      facts: of the pilot.
      seconds: that opening it took.
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
        text: Sequence[Continuation],
    ) -> None:
        """Seeks the facts' values at all levels, and runs all questions up to the layer.

        Raises:
          ValueError: if the second moment has no inverse.
        """
        began = time.monotonic()
        self.layer, self.facts = layer, tuple(facts)
        self._settings, self._second_moment = settings, second_moment
        self._kernel = np.asarray(memory_kernel(model, layer), np.float64)
        self._space = space_of(second_moment, "constrained", settings)
        self._free: dict[float, Space] = {}
        self._targets = target_values(
            model,
            tokenizer,
            facts,
            layer=layer,
            settings=dataclasses.replace(settings.target, stop_at=max(LEVELS)),
            prefixes=prefixes,
            levels=LEVELS,
        )
        self._trials = Trials(model, tokenizer, self.facts, layer)
        few = without_edited_neighbors(self.facts[:_TOGETHER])
        self._joint = Trials(model, tokenizer, few, layer, text=text)
        nothing = np.zeros((len(facts), self._kernel.shape[0]))
        self._before, _ = self._trials.alone(nothing, np.zeros((len(facts), model.config.width)))
        self._joint_before = self._joint.together(np.zeros_like(self._kernel))
        self.seconds = time.monotonic() - began

    def alone(self, level: int) -> Trial:
        """Each fact alone, by the rank-one edit that all closed forms share."""
        began = time.monotonic()
        asked = self._asked(level, self._space)
        own = np.sum(asked.keys * asked.solved, axis=1)
        sound = np.isfinite(own) & (own > 0) & np.isfinite(asked.requested).all(axis=1)
        along = np.where(sound[:, None], asked.solved, 0) / np.where(sound, own, 1)[:, None]
        found, _ = self._trials.alone(along, np.where(sound[:, None], asked.requested, 0))
        settings = {"layer": self.layer, "target.stop_at": LEVELS[level]}
        return _trial(settings, 1, found, self._before, float("nan"), began)

    def together(self, level: int, method: Method, settings: EditSettings) -> Trial:
        """The first ten facts in one model, by a method."""
        began = time.monotonic()
        space = self._space if method != "null-space" else self._free_space(settings)
        asked = self._asked(level, space).take(np.arange(min(_TOGETHER, len(self.facts))))
        kept = np.flatnonzero([reason is None for reason in _reasons(asked, method)])
        keys = np.asarray(self._targets.prompt_keys, np.float64)[: len(asked)]
        weight = weight_of(method, settings, space, keys)
        delta = np.zeros_like(self._kernel)
        if len(kept):
            edit = HOST.run(replay, asked.take(kept), RULES[method], weight=weight)
            delta = np.asarray(edit.delta)
        found, text = self._joint.together(delta)
        before, text_before = self._joint_before
        change = float(np.mean(text - text_before)) if len(text) else float("nan")
        named = {"layer": self.layer, "target.stop_at": LEVELS[level], "method": method}
        if method == "batch":
            named["weight"] = settings.weight
        if method == "null-space":
            named |= {"null_space": settings.null_space, "null_ridge": settings.null_ridge}
        return _trial(named, len(asked), found, before, change, began)

    def _asked(self, level: int, space: Space) -> Asked:
        targets: TargetValues = self._targets
        values = targets.initial + targets.noted[level]
        found = dataclasses.replace(targets, values=values)
        return ask(self._kernel, *wanted_of(found, self._kernel, space), space)

    def _free_space(self, settings: EditSettings) -> Space:
        if settings.null_space not in self._free:
            self._free[settings.null_space] = space_of(self._second_moment, "null-space", settings)
        return self._free[settings.null_space]


def _reasons(asked: Asked, method: Method) -> list[str | None]:
    """For each fact why it cannot be edited, one without a target value among them."""
    sound = np.isfinite(np.asarray(asked.requested)).all(axis=1)
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
    text: float,
    began: float,
) -> Trial:
    return Trial(
        settings,
        num_edits,
        *(getattr(found, kind) for kind in KINDS),
        lost=before.neighborhood - found.neighborhood,
        text=text,
        seconds=time.monotonic() - began,
    )


class OutOfTimeError(ValueError):
    """The budget does not allow for one trial."""


@dataclasses.dataclass(frozen=True)
class Pilot:
    """What a pilot has found.

    Attributes:
      settings: the best.
      trials: all that was tried, in order.
      why: in words.
    """

    settings: EditSettings
    trials: list[Trial]
    why: str


def run_pilot(
    model: Decoder,
    tokenizer: PreTrainedTokenizerFast,
    facts: Sequence[Fact],
    second_moments: SecondMoment,
    settings: EditSettings,
    layers: Sequence[int],
    text: Sequence[Continuation],
    *,
    seconds_left: Callable[[], float],
    first: int = 8,
    on_trial: Callable[[Trial], None] = lambda trial: None,
) -> Pilot:
    """Successive halving over layers: few facts at all, then more facts at the better ones.

    Args:
      model: a decoder.
      tokenizer: of the model.
      facts: that it knows, in the order in which they are taken; the first serve most.
      second_moments: of its keys, stacked over layers.
      settings: what is not searched for.
      layers: candidates, the most promising first.
      text: unrelated.
      seconds_left: of the budget.
      first: facts in the first round.
      on_trial: called after each trial.

    Raises:
      OutOfTimeError: if the first layer alone took more time than there was.
      ValueError: if no layer can be edited.
    """
    prefixes = default_prefixes(model, tokenizer, settings.target)
    trials: list[Trial] = []

    def opened(layer: int, some: Sequence[Fact]) -> Bench:
        c = np.asarray(second_moments.total[layer], np.float64) / int(second_moments.count[layer])
        return Bench(model, tokenizer, some, layer, settings, c, prefixes, text)

    def tried(trial: Trial) -> Trial:
        trials.append(trial)
        on_trial(trial)
        return trial

    best: dict[int, Trial] = {}
    benches: dict[int, Bench] = {}
    spent = 0.0
    number, going = first, list(layers)
    while going:
        chosen = facts[:number]
        for layer in going:
            if best and seconds_left() < 1.5 * spent:
                break
            began = time.monotonic()
            bench = benches[layer] = opened(layer, chosen)
            found = [tried(bench.alone(level)) for level in range(len(LEVELS))]
            best[layer] = max(found, key=lambda trial: trial.score)
            spent = (time.monotonic() - began) * (2.0 if len(chosen) == first else 1.0)
        done = [layer for layer in going if len(best.get(layer, _NONE).efficacy) == len(chosen)]
        if len(going) == 1 or number >= len(facts) or len(done) < len(going):
            break
        going = sorted(going, key=lambda layer: -best[layer].score)[: max(1, len(going) // 3)]
        number = min(len(facts), 3 * number)
    if not best:
        raise OutOfTimeError("budget: expected time for one trial, found none left")
    layer = max(best, key=lambda layer: (len(best[layer].efficacy), best[layer].score))
    won, bench = best[layer], benches[layer]
    if float(np.nanmean(won.efficacy)) <= 0.5:
        told = "; ".join(
            f"layer {at} {float(np.nanmean(one.efficacy)):.2f}" for at, one in sorted(best.items())
        )
        raise ValueError(
            "model: expected a layer at which edits take, found an efficacy no better than chance "
            f"at each ({told}); it may keep facts elsewhere: try --position last"
        )
    level = LEVELS.index(won.settings["target.stop_at"])
    found = _with(settings, layer=layer, layers=(layer,), stop_at=LEVELS[level])
    tried(bench.together(level, "constrained", found))
    for method, options in _options(found):
        attempts = []
        for option in options:
            if attempts and seconds_left() < 2 * attempts[-1].seconds:
                break
            try:
                attempts.append(tried(bench.together(level, method, option)))
            except ValueError:  # no direction is free within this share
                continue
        if attempts:
            names = ("weight", "null_space", "null_ridge")
            chosen = max(attempts, key=lambda trial: trial.score).settings
            found = dataclasses.replace(
                found, **{name: chosen[name] for name in names if name in chosen}
            )
    return Pilot(found, trials, _why(found, won, trials))


_NONE = Trial({}, 1, *(np.zeros(0) for _ in range(4)), text=float("nan"), seconds=0.0)


def _with(settings: EditSettings, *, stop_at: float, **changes: Any) -> EditSettings:
    changes["target"] = dataclasses.replace(settings.target, stop_at=stop_at)
    changes["batch_target"] = dataclasses.replace(settings.batch_target, stop_at=stop_at)
    return dataclasses.replace(settings, **changes)


def _options(settings: EditSettings) -> Iterator[tuple[Method, list[EditSettings]]]:
    """What is tried of the methods that have numbers of their own."""
    yield "batch", [dataclasses.replace(settings, weight=weight) for weight in WEIGHTS]
    yield (
        "null-space",
        [
            dataclasses.replace(settings, null_space=share, null_ridge=ridge)
            for share, ridge in SPACES
        ],
    )


def _why(settings: EditSettings, won: Trial, trials: Sequence[Trial]) -> str:
    layers = {trial.settings["layer"] for trial in trials}
    share = {kind: float(np.nanmean(getattr(won, kind))) for kind in KINDS}
    told = ", ".join(f"{kind} {value:.2f}" for kind, value in share.items())
    return (
        f"tuned: the best of {len(layers)} layers on {len(won.efficacy)} known facts, each edited "
        f"alone: {told}, {float(np.nanmean(won.lost)):.3f} of neighborhood lost"
    )


def spread(costs: Sequence[tuple[int, float]], most: int) -> list[int]:
    """Layers that differ: the cheapest of each of some stretches of depth, the cheapest first.

    Example:
      >>> spread([(0, 3.0), (1, 2.0), (2, 5.0), (3, 1.0)], 2)
      [3, 1]
    """
    stretches = np.array_split(np.arange(len(costs)), min(most, len(costs)))
    best = [min((costs[i] for i in stretch), key=lambda pair: pair[1]) for stretch in stretches]
    return [layer for layer, _ in sorted(best, key=lambda pair: pair[1])]
