"""Target values of a lifelong run: found once and kept on disk, or anew on an edited model."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from kis_jax.lifelong.courses import FindTargets, Wanted, joined
from kis_jax.lifelong.inputs import LifelongInputs
from kis_jax.lifelong.store import LifelongStore, Saved
from kis_jax.models import Decoder
from kis_jax.models.memory import with_memory
from kis_jax.passes.targets.settings import TargetSettings
from kis_jax.passes.targets.values import target_values

# Facts whose target values are found, and saved, together.
_CHUNK = 64


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

    def on_edited(self, facts: slice, kernel: np.ndarray) -> Wanted:
        """What some facts ask of the model with another kernel in its layer."""
        return self._find(with_memory(self._model, {self._inputs.layer: kernel}), facts)

    def on_unedited(self, store: LifelongStore, on_facts: Callable[[int], None]) -> Wanted:
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
                arrays = {"keys": found.keys, "values": found.values}
                saved = Saved(arrays, {"failures": list(found.failures)})
                store.save(name, saved)
            failures = tuple(saved.about["failures"])
            parts.append(Wanted(saved.arrays["keys"], saved.arrays["values"], failures))
            on_facts(facts.stop)
        found = joined(parts)
        if all(found.failures):
            raise ValueError(
                f"facts: expected some with a target value, found none; the first: "
                f"{found.failures[0]}"
            )
        return found

    def _find(self, model: Decoder, facts: slice) -> Wanted:
        found = target_values(
            model,
            self._inputs.scan.tokenizer,
            self._inputs.facts[facts],
            layer=self._inputs.layer,
            settings=self._settings,
            prefixes=self._prefixes,
            token_budget=self._inputs.scan.token_budget,
        )
        return Wanted(found.keys, found.values, tuple(found.failures))


def fixed_targets(wanted: Wanted) -> FindTargets:
    """Targets that were found beforehand, a row for each fact, whatever the kernel is."""

    def find(facts: slice, kernel: np.ndarray) -> Wanted:
        del kernel
        return Wanted(wanted.keys[facts], wanted.values[facts], wanted.failures[facts])

    return find
