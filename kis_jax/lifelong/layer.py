"""The layer that a lifelong run edits: its geometry, and the course of each method in it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from jax import Array

from kis_jax.checkpoints.ledger import rule_of
from kis_jax.core.arrays.precision import HOST
from kis_jax.core.arrays.products import inner
from kis_jax.core.editing.editor import Editor
from kis_jax.core.editing.filters import Anchor, Filter
from kis_jax.core.editing.naming import named_rule
from kis_jax.core.editing.recipes import recipe
from kis_jax.core.editing.replay import foresee
from kis_jax.core.editing.rising import Rising
from kis_jax.core.editing.rules import Rule
from kis_jax.core.geometry.second_moment import SecondMoment
from kis_jax.core.geometry.spaces import Space
from kis_jax.core.geometry.superposition import gram
from kis_jax.data.prompts import tokenize_facts
from kis_jax.edit.closed_forms import (
    AGAINST,
    OUTSIDE,
    SHRUNK,
    anchor_of,
    dropped_of,
    filters_of,
    space_of,
    weight_of,
)
from kis_jax.edit.finetune import finetune
from kis_jax.edit.gradients import BLOCK, first_state, typical
from kis_jax.edit.job import target_settings
from kis_jax.lifelong.courses import (
    REPEATED,
    ClosedFormCourse,
    Course,
    FindTargets,
    GradientCourse,
)
from kis_jax.lifelong.gradient_course import NormalisedCourse
from kis_jax.lifelong.inputs import LifelongInputs
from kis_jax.lifelong.store import LifelongStore
from kis_jax.lifelong.targets import FindAny, TargetFinder, fixed_targets, wanted_in
from kis_jax.models import Decoder
from kis_jax.models.memory import memory_kernel, with_memory
from kis_jax.passes.keys import fact_keys
from kis_jax.passes.means import mean_second_moment
from kis_jax.passes.measuring import tell_dropped
from kis_jax.passes.targets.context_prefixes import default_prefixes
from kis_jax.passes.targets.gradients import Gradients, target_gradients
from kis_jax.passes.targets.settings import TargetSettings

# Facts whose target values give an anchor its length, where they are sought for that alone.
_PILOT = 64


class EditedLayer:
    """One layer of a model, and what is asked of it.

    Attributes:
      kernel: of the unedited model, `(d, m)` float64.
      prefixes: of each method, before the prompts when its keys and values are taken.
      bystanders: keys that nobody edits, `(q, d)` float64, by kind: of facts after the edited
        ones, and of tokens of held-out text.
      dropped: directions that were dropped of the second moment.
      failures: for each fact why no target value was found on the unedited model, or None.
    """

    def __init__(
        self,
        inputs: LifelongInputs,
        model: Decoder,
        moments: SecondMoment,
        store: LifelongStore,
        on_facts: Callable[[int], None],
    ) -> None:
        """Factors the second moment, and finds target values or reads those that are saved.

        Raises:
          ValueError: if the second moment has no inverse, or no fact has a target value.
        """
        self._inputs = inputs
        self._model = model
        self.kernel = np.asarray(memory_kernel(model, inputs.layer), np.float64)
        self._weights: dict[str, float | None] = {}
        self._factor(moments)
        self.bystanders = self._bystanders()
        self.prefixes: dict[str, tuple[str, ...]] = {}
        self.failures: tuple[str | None, ...] = (None,) * len(inputs.facts)
        self._find: dict[str, FindTargets] = {}
        finders: dict[TargetSettings, TargetFinder] = {}
        fixed: dict[TargetSettings, FindAny] = {}
        for method in inputs.request.methods:
            if self.targets_of(method) is None:
                continue
            wanted = target_settings(inputs.settings, method)
            self.prefixes[method] = default_prefixes(model, inputs.scan.tokenizer, wanted)
            if wanted not in finders:
                finders[wanted] = TargetFinder(inputs, model, wanted, self.prefixes[method])
            find, at = finders[wanted].on_edited, None
            if self.targets_of(method) == "fixed":
                if wanted not in fixed:
                    found = finders[wanted].on_unedited(store, on_facts)
                    pairs = zip(self.failures, found.failures, strict=True)
                    self.failures = tuple(one or other for one, other in pairs)
                    fixed[wanted] = fixed_targets(found)
                find, at = fixed[wanted], self.kernel
            anchor = self._anchor(method, find)
            space = self._spaces[method]
            self._find[method] = wanted_in(find, space, kernel=at, anchor=anchor)

    def targets_of(self, method: str) -> str | None:
        """Whether a method's target values are "fixed" or "recomputed"; None if it has none."""
        found = recipe(method)
        if found.base.rule is None:
            return None
        return "recomputed" if found.kind == "rome" else self._inputs.request.targets

    def course(self, method: str) -> Course:
        """A method at its start."""
        if method == "finetune":
            return GradientCourse(self.kernel, self._tune)
        if recipe(method).base.gradients:
            return self._normalised(method)
        recomputed, weight = self.targets_of(method) == "recomputed", self._weight(method)
        settings = self._inputs.settings
        with HOST.active():
            rule = named_rule(rule_of(method), "float64", weight=weight)
            rising = None
            if weight is not None and recipe(method).base.rising:
                rising = Rising.init(weight, settings.budget)
            editor = Editor.init(
                *(self.kernel, self._spaces[method], len(self._inputs.facts), rule),
                filters=filters_of(method, settings, self.kernel),
            )
        base = recipe(method).base
        refusal = AGAINST if base.where == "text" else OUTSIDE
        return ClosedFormCourse(
            editor,
            self._find[method],
            batch=1 if recomputed and weight is None else self._inputs.request.batch,
            refusal={"constrained": REPEATED, "shrinking": SHRUNK}.get(base.rule or "", refusal),
            rising=rising,
        )

    def foreseen(self, method: str, course: ClosedFormCourse) -> list[np.ndarray]:
        """How far values move, from inner products of keys and what the values lacked at first.

        Returns:
          For the facts edited, then for each kind of bystander: `(q, m)`.
        """
        edited, values = course.asked
        groups = [edited, *self.bystanders.values()]
        given = (np.concatenate(groups), edited, values - edited @ self.kernel)
        moved = HOST.run(
            _moved, *given, self._spaces[method], course.rule, course.filters, course.blocks
        )
        return np.split(moved, np.cumsum([len(group) for group in groups])[:-1])

    def _factor(self, moments: SecondMoment) -> None:
        layer, settings = self._inputs.layer, self._inputs.settings
        request = self._inputs.request
        inverted: Any = {"ridge": request.ridge, "inverse": request.inverse}
        c = mean_second_moment(moments, layer, self._model.config, **inverted)
        try:
            common = space_of(c, "sequential", settings, **inverted)
            self._spaces = dict.fromkeys(request.methods, common)
            made: dict[str, Space] = {"text": common}
            for method in request.methods:
                where = recipe(method).base.where
                if where not in made:
                    made[where] = space_of(c, method, settings)
                self._spaces[method] = made[where]
        except ValueError as error:
            raise ValueError(f"layer {layer}: {error}") from error
        self.dropped = dropped_of(common, "sequential")
        tell_dropped(layer, self.dropped)

    def _normalised(self, method: str) -> NormalisedCourse:
        """A method that writes along gradients, at its start."""
        whitened, layer = recipe(method).kind == "stableedit", self._inputs.layer
        first = self._see(slice(0, min(BLOCK, len(self._inputs.facts))), self.kernel)
        return NormalisedCourse(
            self.kernel,
            first_state(self._model, layer, whitened=whitened),
            self._see,
            self._inputs.settings,
            layer=layer,
            size=typical(self._model, layer, first),
            batch=self._inputs.request.batch,
            num_facts=len(self._inputs.facts),
        )

    def _see(self, facts: slice, kernel: np.ndarray) -> Gradients:
        scan, layer = self._inputs.scan, self._inputs.layer
        return target_gradients(
            with_memory(self._model, {layer: kernel}),
            scan.tokenizer,
            self._inputs.facts[facts],
            layers=[layer],
            token_budget=scan.token_budget,
        )

    def _anchor(self, method: str, find: FindAny) -> Anchor | None:
        """Of a method that has one; its pilot are facts of the run, on the unedited model."""
        if "anchor" not in recipe(method).filters:
            return None
        settings, most = self._inputs.settings, len(self._inputs.facts)
        if self.targets_of(method) == "recomputed":
            most = min(most, _PILOT)
        pilot = np.zeros((0, 1))
        if settings.anchor == 0:
            pilot = find(slice(0, most), self.kernel).values
        return anchor_of(method, settings, pilot)

    def _weight(self, method: str) -> float | None:
        if method not in self._weights:
            settings, space = self._inputs.settings, self._spaces.get(method)
            self._weights[method] = space and weight_of(method, settings, space, self._prompt_keys)
        return self._weights[method]

    @functools.cached_property
    def _prompt_keys(self) -> np.ndarray:
        """Of the bare prompts of the facts, `(n, d)` float64."""
        scan = self._inputs.scan
        prompts = tokenize_facts(
            self._inputs.facts,
            scan.tokenizer,
            context_length=scan.config.context_length,
            position=self._inputs.settings.target.position,
        )
        found = fact_keys(self._model, prompts, token_budget=scan.token_budget)
        return found[self._inputs.layer].astype(np.float64)

    def _bystanders(self) -> dict[str, np.ndarray]:
        kinds = {"other_facts": self._inputs.others, "text": self._inputs.text_prompts}
        budget, layer = self._inputs.scan.token_budget, self._inputs.layer
        return {
            name: fact_keys(self._model, prompts, token_budget=budget)[layer].astype(np.float64)
            for name, prompts in kinds.items()
            if prompts
        }

    def _tune(self, facts: slice, kernel: np.ndarray) -> np.ndarray:
        model = with_memory(self._model, {self._inputs.layer: kernel})
        scan = self._inputs.scan
        return finetune(
            model,
            scan.tokenizer,
            self._inputs.facts[facts],
            layer=self._inputs.layer,
            token_budget=scan.token_budget,
        ).kernel


def _moved(
    everyone: Array,
    edited: Array,
    requested: Array,
    space: Space,
    rule: Rule,
    filters: tuple[Filter, ...],
    blocks: list[int],
) -> Array:
    """How far the values of keys move, from products of keys; those edited are the first."""
    written = space.solve(edited)
    for each in filters:
        requested, written = each.residuals(requested), each.directions(written)
    reached = inner(written, everyone) if filters else None
    return foresee(
        *(gram(everyone, space), requested, rule),
        blocks=blocks,
        written=reached,
        carried=all(each.carried for each in filters),
    )
