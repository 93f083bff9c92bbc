"""The layer that a lifelong run edits: its geometry, and the course of each method in it."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from kis_jax.checkpoints.ledger import RULES
from kis_jax.core.arrays.precision import HOST
from kis_jax.core.editing.editor import Editor
from kis_jax.core.editing.replay import foresee
from kis_jax.core.editing.rules import named_rule
from kis_jax.core.geometry.second_moment import SecondMoment
from kis_jax.core.geometry.superposition import gram
from kis_jax.data.prompts import tokenize_facts
from kis_jax.edit.closed_forms import AGAINST, OUTSIDE, Method, dropped_of, space_of, weight_of
from kis_jax.edit.finetune import finetune
from kis_jax.edit.job import target_settings
from kis_jax.lifelong.courses import (
    REPEATED,
    ClosedFormCourse,
    Course,
    FindTargets,
    GradientCourse,
)
from kis_jax.lifelong.inputs import LifelongInputs
from kis_jax.lifelong.store import LifelongStore
from kis_jax.lifelong.targets import FindAny, TargetFinder, fixed_targets, wanted_in
from kis_jax.models import Decoder
from kis_jax.models.memory import memory_kernel, with_memory
from kis_jax.passes.keys import fact_keys
from kis_jax.passes.measuring import tell_dropped
from kis_jax.passes.targets.context_prefixes import default_prefixes
from kis_jax.passes.targets.settings import TargetSettings


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
        self._weights: dict[Method, float | None] = {}
        self._factor(moments)
        self.bystanders = self._bystanders()
        self.prefixes: dict[Method, tuple[str, ...]] = {}
        self.failures: tuple[str | None, ...] = (None,) * len(inputs.facts)
        self._find: dict[Method, FindTargets] = {}
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
            self._find[method] = wanted_in(find, self._spaces[method], kernel=at)

    def targets_of(self, method: Method) -> str | None:
        """Whether a method's target values are "fixed" or "recomputed"; None if it has none."""
        if method == "finetune":
            return None
        return "recomputed" if method == "rome" else self._inputs.request.targets

    def course(self, method: Method) -> Course:
        """A method at its start."""
        if method == "finetune":
            return GradientCourse(self.kernel, self._tune)
        recomputed = self.targets_of(method) == "recomputed"
        with HOST.active():
            rule = named_rule(RULES[method], "float64", weight=self._weight(method))
            space = self._spaces[method]
            editor = Editor.init(self.kernel, space, len(self._inputs.facts), rule)
        return ClosedFormCourse(
            editor,
            self._find[method],
            singly=recomputed and self._weight(method) is None,
            refusal={"constrained": REPEATED, "null-space": OUTSIDE}.get(method, AGAINST),
        )

    def foreseen(self, method: Method, course: ClosedFormCourse) -> list[np.ndarray]:
        """How far values move, from inner products of keys and what the values lacked at first.

        Returns:
          For the facts edited, then for each kind of bystander: `(q, m)`.
        """
        edited, values = course.asked
        groups = [edited, *self.bystanders.values()]
        products = HOST.run(gram, np.concatenate(groups), self._spaces[method])
        requested, weight = values - edited @ self.kernel, self._weight(method)
        moved = HOST.run(foresee, products, requested, RULES[method], weight=weight)
        return np.split(moved, np.cumsum([len(group) for group in groups])[:-1])

    def _factor(self, moments: SecondMoment) -> None:
        layer, settings = self._inputs.layer, self._inputs.settings
        c = np.asarray(moments.total[layer], np.float64) / int(moments.count[layer])
        request = self._inputs.request
        try:
            common = space_of(
                c, "sequential", settings, ridge=request.ridge, inverse=request.inverse
            )
            self._spaces = dict.fromkeys(request.methods, common)
            if "null-space" in self._spaces:
                self._spaces["null-space"] = space_of(c, "null-space", settings)
        except ValueError as error:
            raise ValueError(f"layer {layer}: {error}") from error
        self.dropped = dropped_of(common, "sequential")
        tell_dropped(layer, self.dropped)

    def _weight(self, method: Method) -> float | None:
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
