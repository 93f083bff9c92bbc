"""Target values of a lifelong run: found once and kept on disk, or anew on an edited model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from kis_jax.core.editing.filters import Anchor
from kis_jax.core.geometry.spaces import Space
from kis_jax.edit.closed_forms import anchored, wanted_of
from kis_jax.lifelong.courses import FindTargets, Wanted
from kis_jax.lifelong.inputs import LifelongInputs
from kis_jax.lifelong.store import LifelongStore, Saved
from kis_jax.models import Decoder
from kis_jax.models.memory import with_memory
from kis_jax.passes.targets.settings import TargetSettings
from kis_jax.passes.targets.values import target_values

# Facts whose target values are found, and saved, together.
_CHUNK = 64


@dataclasses.dataclass(frozen=True)
class Found:
    """Target values, as much of `TargetValues` as is kept: NumPy, NaN for a fact without any.

    Attributes:
      keys: averaged over prefixes, `(n, d)`.
      prompt_keys: of the bare prompts, `(n, d)`.
      values: `(n, m)`.
      initial: from which they were sought, `(n, m)`.
      failures: for each fact why it has none, or None.
      settings: of the search.
    """

    keys: np.ndarray
    prompt_keys: np.ndarray
    values: np.ndarray
    initial: np.ndarray
    failures: tuple[str | None, ...]
    settings: TargetSettings

    def part(self, facts: slice) -> Found:
        """Those of some facts."""
        arrays = {name: getattr(self, name)[facts] for name in _ARRAYS}
        return dataclasses.replace(self, **arrays, failures=self.failures[facts])


_ARRAYS = ("keys", "prompt_keys", "values", "initial")
FindAny = Callable[[slice, np.ndarray], Found]


class TargetFinder:
    """Finds what the facts of a run ask of its layer."""

    def __init__(
        self,
        inputs: LifelongInputs,
        model: Decoder,
        settings: TargetSettings,
        prefixes: tuple[str, ...],
    ) -> None:
        """Prepares.

        Args:
          inputs: of the run.
          model: not edited.
          settings: of the search.
          prefixes: before the prompts, when keys and values are taken.
        """
        self._inputs = inputs
        self._model = model
        self._settings = settings
        self._prefixes = prefixes

    def on_edited(self, facts: slice, kernel: np.ndarray) -> Found:
        """What some facts ask of the model with another kernel in its layer."""
        return self._find(with_memory(self._model, {self._inputs.layer: kernel}), facts)

    def on_unedited(self, store: LifelongStore, on_facts: Callable[[int], None]) -> Found:
        """What all facts ask of the unedited model, some at a time, each part saved.

        Raises:
          ValueError: if no target value of any fact is found.
        """
        single = self._settings == self._inputs.settings.target
        kind = "targets" if single else "batch_targets"
        parts, total = [], len(self._inputs.facts)
        for start in range(0, total, _CHUNK):
            facts = slice(start, min(start + _CHUNK, total))
            name = f"{kind}_{start:06d}"
            saved = store.load(name)
            if saved is None:
                found = self._find(self._model, facts)
                arrays = {name: getattr(found, name) for name in _ARRAYS}
                saved = Saved(arrays, {"failures": list(found.failures)})
                store.save(name, saved)
            failures = tuple(saved.about["failures"])
            arrays = {name: saved.arrays[name] for name in _ARRAYS}
            parts.append(Found(**arrays, failures=failures, settings=self._settings))
            on_facts(facts.stop)
        found = _joined(parts)
        if all(found.failures):
            raise ValueError(
                f"facts: expected some with a target value, found none; the first: "
                f"{found.failures[0]}"
            )
        return found

    def _find(self, model: Decoder, facts: slice) -> Found:
        found = target_values(
            model,
            self._inputs.scan.tokenizer,
            self._inputs.facts[facts],
            layer=self._inputs.layer,
            settings=self._settings,
            prefixes=self._prefixes,
            token_budget=self._inputs.scan.token_budget,
        )
        arrays = {name: getattr(found, name) for name in _ARRAYS}
        return Found(**arrays, failures=tuple(found.failures), settings=self._settings)


def fixed_targets(found: Found) -> FindAny:
    """Targets that were found beforehand, a row for each fact, whatever the kernel is."""

    def find(facts: slice, kernel: np.ndarray) -> Found:
        del kernel
        return found.part(facts)

    return find


def wanted_in(
    find: FindAny,
    space: Space,
    *,
    kernel: np.ndarray | None = None,
    anchor: Anchor | None = None,
) -> FindTargets:
    """What target values ask of a layer, in the space of a method and as its anchor has them.

    They were found on the model with the kernel given, or, if None, with that of the moment.
    """

    def wanted(facts: slice, now: np.ndarray) -> Wanted:
        found = anchored(find(facts, now), anchor)
        keys, values = wanted_of(found, now if kernel is None else kernel, space)
        return Wanted(keys, values, found.failures)

    return wanted


def _joined(parts: Sequence[Found]) -> Found:
    """Those of several parts, in their order."""
    arrays = {name: np.concatenate([getattr(part, name) for part in parts]) for name in _ARRAYS}
    reasons = tuple(reason for part in parts for reason in part.failures)
    return dataclasses.replace(parts[0], **arrays, failures=reasons)
