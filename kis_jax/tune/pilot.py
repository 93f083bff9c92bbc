"""The pilot: a few real edits at the best candidates, most of the time for those that do best."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerFast

from kis_jax.core.geometry.second_moment import SecondMoment
from kis_jax.data.facts import Fact
from kis_jax.models import Decoder
from kis_jax.passes.scores.measures import KINDS
from kis_jax.passes.targets.context_prefixes import default_prefixes
from kis_jax.passes.targets.settings import EditSettings
from kis_jax.tune.bench import LEVELS, MOST_LOST_TOGETHER, Bench, Trial, gentlest, lost_by

WEIGHTS = (0.05, 0.15, 0.02, 0.005)
SPACES = ((0.3, 0.02), (0.3, 0.1), (0.6, 0.02), (0.3, 0.005))
"""Of the null space: the share of text's energy, and the ridge."""
_MOST_FACTS = 72
_WORSE = 0.1  # than the best score: two such layers in a row end a round
_DEAR = 10  # times the least cost: layers beyond are tried where there are few others
_JOINT_TRIALS = 8  # of the facts together, for which time is kept
_AT_MOST = 1.5  # times what a run is expected to take
_WORTH = 1.25  # times the facts: fewer would tell little


class OutOfTimeError(ValueError):
    """The budget does not allow for one trial."""


class NoLayerError(ValueError):
    """Edits take at none of the layers that were tried."""


@dataclasses.dataclass(frozen=True)
class Pilot:
    """What a pilot has found.

    Attributes:
      settings: the best.
      trials: all that was tried, in order.
      won: that of the best settings, each fact alone.
      why: in words.
    """

    settings: EditSettings
    trials: list[Trial]
    won: Trial
    why: str


def run_pilot(
    model: Decoder,
    tokenizer: PreTrainedTokenizerFast,
    facts: Sequence[Fact],
    second_moments: SecondMoment,
    settings: EditSettings,
    costs: Sequence[tuple[int, float]],
    *,
    seconds_left: Callable[[], float],
    most: int = 5,
    least: float = 0.5,
    first: int = 8,
    on_trial: Callable[[Trial], None] = lambda trial: None,
) -> Pilot:
    """Few facts at some layers, then at those beside the best, then more at the better two.

    Args:
      model: a decoder.
      tokenizer: of the model.
      facts: that it knows, in the order in which they are taken; the first serve most.
      second_moments: of its keys, stacked over layers.
      settings: what is not searched for.
      costs: layers, each with what an edit there is expected to cost; see `LayerEvidence`.
      seconds_left: of the budget.
      most: layers in the first round.
      least: efficacy of the first rounds, up to which edits count as not taking; .5 is chance.
      first: facts in it, and in the second.
      on_trial: called after each trial.

    Raises:
      OutOfTimeError: if the first layer alone took more time than there was.
      NoLayerError: if edits take at none.
    """
    prefixes = default_prefixes(model, tokenizer, settings.target)
    trials: list[Trial] = []
    layers = spread(costs, most)

    def opened(layer: int, some: Sequence[Fact]) -> Bench:
        c = np.asarray(second_moments.total[layer], np.float64) / int(second_moments.count[layer])
        earlier = benches.get(layer)
        return Bench(model, tokenizer, some, layer, settings, c, prefixes, earlier)

    def tried(trial: Trial) -> Trial:
        trials.append(trial)
        on_trial(trial)
        return trial

    best: dict[int, Trial] = {}
    alone: dict[int, list[Trial]] = {}
    benches: dict[int, Bench] = {}
    spent: dict[int, float] = {}  # by the last layer, of so many facts that were new to it

    def spare() -> float:
        """Seconds beside those that are kept for facts together."""
        return seconds_left() - _JOINT_TRIALS * trials[-1].seconds

    def affordable(layers: int) -> int:
        """Facts for which there is time at so many layers, going by the longest run up to here."""
        known = max(spent)
        return int(known * spare() / max(layers * _AT_MOST * spent[known], 1e-9))

    def tries(going: Sequence[int], number: int) -> bool:
        """So many facts at some layers, as long as there is time, and worse ones not in a row."""
        worse = 0
        for layer in going:
            new = number - (len(benches[layer].facts) if layer in benches else 0)
            known = max(spent, default=0)
            expected = spent[known] * max(1.0, new / known) if known else 0.0
            if best and _AT_MOST * expected > spare():
                return False
            began = time.monotonic()
            bench = benches[layer] = opened(layer, facts[:number])
            alone[layer] = [tried(bench.alone(level)) for level in range(len(LEVELS))]
            best[layer] = max(alone[layer], key=lambda trial: trial.score)
            spent[new] = time.monotonic() - began
            top = max(trial.score for trial in best.values())
            worse = 0 if best[layer].score > top - _WORSE else worse + 1
            if worse == 2:  # those that follow promise less still
                break
        return True

    going = tries(layers, first)
    if going and best:
        going = tries(_between(max(best, key=lambda at: best[at].score), list(best), costs), first)
    if not best:
        raise OutOfTimeError("budget: expected time for one trial, found none left")
    _check_takes(best, settings, least)
    number, two, pool = first, 2, list(best)
    while going and number < len(facts) and number < _MOST_FACTS:
        pool = sorted(pool, key=lambda layer: -best[layer].score)[:two]
        more = min(len(facts), 3 * number, number + affordable(len(pool)))
        if more < _WORTH * number:
            break
        number = more
        going, two = tries(pool, number), 1
    enough = [layer for layer in best if len(best[layer].efficacy) > first] or list(best)
    layer = max(enough, key=lambda layer: best[layer].score)
    won, bench = gentlest(alone[layer]), benches[layer]
    level = LEVELS.index(won.settings["target.stop_at"])
    joint = {level: tried(bench.together(level, "constrained", settings))}
    while level and lost_by(joint[level]) > MOST_LOST_TOGETHER and seconds_left() > 0:
        level -= 1
        joint[level] = tried(bench.together(level, "constrained", settings))
    level = max(joint, key=lambda level: joint[level].score + alone[layer][level].score)
    won = alone[layer][level]
    found = _with(settings, layer=layer, layers=(layer,), stop_at=LEVELS[level])
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
    return Pilot(found, trials, won, _why(found, won, trials))


def _check_takes(best: Mapping[int, Trial], settings: EditSettings, least: float) -> None:
    """Raises NoLayerError if edits take at no layer."""
    found = {layer: float(np.nanmean(one.efficacy)) for layer, one in sorted(best.items())}
    if max(found.values()) <= least:
        told = "; ".join(f"layer {layer} {share:.2f}" for layer, share in found.items())
        raise NoLayerError(
            f"with keys at the token {settings.target.position} an efficacy of "
            f"{max(found.values()):.2f} at most ({told})"
        )


def _with(settings: EditSettings, *, stop_at: float, **changes: Any) -> EditSettings:
    changes["target"] = dataclasses.replace(settings.target, stop_at=stop_at)
    changes["batch_target"] = dataclasses.replace(settings.batch_target, stop_at=stop_at)
    return dataclasses.replace(settings, **changes)


def _options(settings: EditSettings) -> Iterator[tuple[str, list[EditSettings]]]:
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
        f"alone: {told}, {lost_by(won):.3f} of neighborhood lost"
    )


def _between(best: int, tried: Sequence[int], costs: Sequence[tuple[int, float]]) -> list[int]:
    """Of the layers on either side of the best, up to the next that were tried, the cheapest."""
    below = max((at for at in tried if at < best), default=-1)
    above = min((at for at in tried if at > best), default=max(costs)[0] + 1)
    found = []
    for low, high in ((below, best), (best, above)):
        side = [pair for pair in costs if low < pair[0] < high]
        found += [min(side, key=lambda pair: pair[1])] if side else []
    return [layer for layer, _ in sorted(found, key=lambda pair: pair[1])]


def spread(costs: Sequence[tuple[int, float]], most: int) -> list[int]:
    """Layers that differ, none much dearer than the cheapest, the cheapest first.

    Of the layers that cost up to ten times the least, or of the cheapest `most` if those are more,
    the cheapest of each of `most` stretches of depth.

    Example:
      >>> spread([(0, 3.0), (1, 2.0), (2, 5.0), (3, 1.0), (4, 70.0)], 2)
      [3, 1]
    """
    least = sorted(cost for _, cost in costs)[:most]
    near = [pair for pair in costs if pair[1] <= max(_DEAR * least[0], least[-1])]
    stretches = np.array_split(np.arange(len(near)), max(1, min(most, len(near))))
    parts = [[near[place] for place in stretch] for stretch in stretches if stretch.size]
    best = [min(part, key=lambda pair: pair[1]) for part in parts]
    return [layer for layer, _ in sorted(best, key=lambda pair: pair[1])]
