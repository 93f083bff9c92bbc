"""What every method of editing works from, and what it gives back."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerFast

from kis_jax.checkpoints.ledger import LayerLedger, replayed
from kis_jax.core.arrays.precision import HOST, Inverse
from kis_jax.core.editing.filters import Filter
from kis_jax.core.editing.interference import text_damage
from kis_jax.core.editing.recipes import Recipe, recipe
from kis_jax.core.geometry.second_moment import SecondMoment
from kis_jax.core.geometry.spaces import Space
from kis_jax.data.facts import Fact
from kis_jax.edit.closed_forms import (
    anchor_of,
    anchored,
    dropped_of,
    filters_of,
    space_of,
    weight_of,
)
from kis_jax.models import Decoder, Model
from kis_jax.models.memory import memory_kernel
from kis_jax.passes.means import mean_second_moment
from kis_jax.passes.measuring import tell_dropped
from kis_jax.passes.targets.settings import EditSettings, TargetSettings
from kis_jax.passes.targets.values import TargetValues, target_values


@dataclasses.dataclass(frozen=True)
class Job:
    """Facts to be edited into a model, all of it checked.

    Attributes:
      model: to be edited.
      tokenizer: of the model.
      facts: in the order of the edits.
      second_moments: stacked over the layers of the model.
      method: of editing.
      layers: whose memory is written, in ascending order.
      settings: of the methods.
      prefixes: put before the prompts.
      original_keys: whether residuals and denominators of "rome" take keys without a prefix.
      ridge: added to the diagonal of the second moment.
      inverse: how C is inverted; see `Precision.whitener`.
      token_budget: the most tokens run at once; None for what fits.
    """

    model: Decoder
    tokenizer: PreTrainedTokenizerFast
    facts: Sequence[Fact]
    second_moments: SecondMoment
    method: str
    layers: Sequence[int]
    settings: EditSettings
    prefixes: tuple[str, ...]
    original_keys: bool
    ridge: float
    inverse: Inverse
    token_budget: int | None

    @property
    def recipe(self) -> Recipe:
        """The method, taken apart."""
        return recipe(self.method)

    def anchored(self, targets: TargetValues) -> TargetValues:
        """Target values as the method's anchor has them, if it has one."""
        return anchored(targets, anchor_of(self.method, self.settings, targets.values))

    def filters(self, kernel: np.ndarray) -> tuple[Filter, ...]:
        """Of what is written into a kernel."""
        return filters_of(self.method, self.settings, kernel)

    def weight(self, targets: TargetValues) -> float | None:
        """See `weight_of`; of several layers, as it is at the last."""
        keys = np.asarray(targets.prompt_keys, np.float64)
        return weight_of(self.method, self.settings, self.space(self.layers[-1]), keys)

    def prepare(self) -> None:
        """Factors the second moments before any search: what C alone refuses is refused first."""
        for layer in self.layers if self.recipe.base.rule else ():
            self.space(layer)

    @functools.cached_property
    def _last(self) -> dict[int, Space]:
        """The space of the last of the layers; the others are not kept, as each may be large."""
        return {}

    @functools.cached_property
    def dropped(self) -> dict[int, int]:
        """Directions that were dropped of the second moments factored so far, by layer."""
        return {}

    def space(self, layer: int) -> Space:
        """Of a layer, its second moment factored.

        Raises:
          ValueError: if it has no inverse, or leaves no direction free, naming the layer.
        """
        if layer in self._last:
            return self._last[layer]
        inverted: Any = {"ridge": self.ridge, "inverse": self.inverse}
        c = mean_second_moment(self.second_moments, layer, self.model.config, **inverted)
        try:
            space = space_of(c, self.method, self.settings, **inverted)
        except ValueError as error:
            raise ValueError(f"layer {layer}: {error}") from error
        if layer not in self.dropped and (dropped := dropped_of(space, self.method)):
            self.dropped[layer] = dropped
            tell_dropped(layer, dropped)
        if layer == self.layers[-1]:
            self._last[layer] = space
        return space

    def damage(self, layers: Mapping[int, LayerLedger]) -> float:
        """What is done to ordinary text, over all layers; see `text_damage`."""
        total = 0.0
        for layer, own in layers.items():
            kernel = np.asarray(memory_kernel(self.model, layer), np.float64)
            c = mean_second_moment(
                self.second_moments, layer, self.model.config, inverse=None
            )  # as it was measured
            total += float(HOST.run(text_damage, own.edit, kernel, c))
        return total

    def target_values(self, model: Model, facts: Sequence[Fact]) -> TargetValues:
        """Target values of facts at the last of the layers, found on a model."""
        return target_values(
            model,
            self.tokenizer,
            facts,
            layer=self.layers[-1],
            settings=target_settings(self.settings, self.method),
            prefixes=self.prefixes,
            token_budget=self.token_budget,
        )


@dataclasses.dataclass(frozen=True)
class Search:
    """How the search for a fact's target value ended.

    Attributes:
      loss: by then; NaN if there was no search.
      probability: of the target by then, likewise.
      steps: that were taken.
    """

    loss: float = float("nan")
    probability: float = float("nan")
    steps: int = 0


@dataclasses.dataclass(frozen=True)
class Written:
    """What a method made of a job.

    Attributes:
      layers: what was done to each layer.
      reasons: for each fact why it was left out; None if it was edited.
      searches: for each fact, how its target value was found.
      weight: of least squares, or the ridge of a null space; None for methods without.
    """

    layers: Mapping[int, LayerLedger]
    reasons: Sequence[str | None]
    searches: Sequence[Search]
    weight: float | None = None


def scaled(found: Written, method: str, scale: float) -> dict[int, LayerLedger]:
    """What was done to each layer if so much of all that was asked for is written."""
    layers = {}
    for layer, own in found.layers.items():
        if own.asked is None:
            residuals: Any = scale * np.asarray(own.edit.residuals)
            edit = dataclasses.replace(own.edit, residuals=residuals)
            layers[layer] = dataclasses.replace(own, edit=edit)
        else:
            requested: Any = scale * np.asarray(own.asked.initial_residuals)
            asked = dataclasses.replace(own.asked, initial_residuals=requested)
            layers[layer] = replayed(asked, method, found.weight)
    return layers


def target_settings(settings: EditSettings, method: str) -> TargetSettings:
    """Of the search for target values: those of MEMIT, where facts are solved for together."""
    return settings.batch_target if recipe(method).base.together else settings.target


def none_left(reasons: Sequence[str | None]) -> str:
    """What to say where no fact can be edited."""
    return (
        f"facts: expected one at least that can be edited, found none of {len(reasons)}; the "
        f"first: {reasons[0]}"
    )


def searches(targets: TargetValues) -> list[Search]:
    """How each search of a batch ended."""
    rows = zip(targets.losses, targets.probabilities, targets.steps, strict=True)
    return [Search(float(loss), float(share), int(steps)) for loss, share, steps in rows]


def failures(targets: TargetValues) -> list[str | None]:
    """For each fact why its target value cannot be used; None if it can."""
    numbers = np.concatenate([targets.keys, targets.values], axis=1)
    sound = np.asarray(np.isfinite(numbers).all(axis=1))
    return [
        reason or (None if sound[row] else "its key or its target value is not finite")
        for row, reason in enumerate(targets.failures)
    ]
