"""The ledger of an edited model: what was edited, so that any of it can be taken back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from kis_jax.core.arrays.precision import HOST
from kis_jax.core.arrays.products import lengths
from kis_jax.core.editing.ledger import Edit
from kis_jax.core.editing.replay import Asked, replay


@dataclasses.dataclass(frozen=True)
class EditedFact:
    """One line of a ledger.

    Attributes:
      case_id: its number or name in the data set.
      subject: the subject's name.
      prompt: with one `{}` where the subject belongs.
      target: the object that was written.
    """

    case_id: int | str
    subject: str
    prompt: str
    target: str


@dataclasses.dataclass(frozen=True)
class Base:
    """The model that was edited.

    Attributes:
      source: its directory or hub name, as it was given.
      fingerprint: of its configuration and weights.
    """

    source: str
    fingerprint: str


@dataclasses.dataclass(frozen=True)
class LayerLedger:
    """What was done to one layer.

    Attributes:
      edit: the update of its kernel, NumPy float64.
      asked: what the edit follows from, a row for each fact; None for "finetune", whose update
        follows from nothing smaller than itself.
    """

    edit: Edit
    asked: Asked | None


@dataclasses.dataclass(frozen=True)
class Ledger:
    """What was edited, in the order of the edits: all that an edited model and its base differ in.

    Attributes:
      method: as `kis edit` names it.
      facts: those that were written.
      layers: what was done to each layer, by its index.
      weight: of "batch", or the ridge of "null-space"; else None.
      prefixes: put before the prompts for keys and target values; "" is none.
      settings: plain JSON values: all else that the numbers depend on.
      base: the model that was edited; None for edits that were made in memory alone.
    """

    method: str
    facts: tuple[EditedFact, ...]
    layers: Mapping[int, LayerLedger]
    weight: float | None = None
    prefixes: tuple[str, ...] = ("",)
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    base: Base | None = None

    @property
    def edits(self) -> dict[int, Edit]:
        """The updates by layer, as `kis.edited` takes them."""
        return {layer: own.edit for layer, own in self.layers.items()}

    @property
    def exact(self) -> bool:
        """Whether some of the facts follow from it as if they alone had been edited.

        So for one layer, whose keys do not depend on its own memory. Where several layers were
        edited, what the later ones met depends on what the earlier ones had done.
        """
        return len(self.layers) == 1 and self.method != "finetune"

    def shares(self, layer: int, row: int) -> tuple[float, np.ndarray] | None:
        """What one edit was asked to write in a layer, and where it lands.

        Returns:
          The length of what its value lacked, and `(n,)`, p: the share of the edit that lands on
          each of the facts. None for "finetune".
        """
        asked = self.layers[layer].asked
        if asked is None:
            return None
        wanted: Any = asked.requested[row]
        return float(lengths(wanted)), np.asarray(asked.superposition[row])

    def take(self, order: Sequence[int]) -> Ledger:
        """The ledger of some of the facts, or of all in another order: `ledger.take([2, 0])`.

        Needs neither the model nor the second moment; see `core.replay`. Target values stay as
        they are: those of "rome", found on the model that the edits before had left, are not
        found again. For several layers see `exact`.

        Args:
          order: rows, counted from 0, each at most once, in the order wanted.

        Raises:
          ValueError: if a row is not there or comes twice, none is left, or the method is
            "finetune" and these are not all rows as they are.
        """
        order = [int(row) for row in order]
        n = len(self.facts)
        if wrong := [row for row in order if not 0 <= row < n]:
            raise ValueError(
                f"order: expected rows of the ledger, 0 to {n - 1}, found {wrong[0]}; `kis ledger "
                "list` shows them"
            )
        if len(set(order)) < len(order):
            raise ValueError(f"order: expected each row at most once, found {order}")
        if not order:
            raise ValueError("order: expected one row at least, found none; the base has no edits")
        if order == list(range(n)):
            return self
        if self.method == "finetune":
            raise ValueError(
                "order: expected all rows, as fine-tuning moves all facts at once, found "
                f"{len(order)} of {n}; undo all of them, and edit anew those wanted"
            )
        layers = {
            layer: replayed(own.asked.take(np.array(order)), self.method, self.weight)
            for layer, own in self.layers.items()
            if own.asked is not None
        }
        facts = tuple(self.facts[row] for row in order)
        return dataclasses.replace(self, facts=facts, layers=layers)

    def merge(self, other: Ledger) -> Ledger:
        """The ledger of both, the other's facts after one's own, as if all had been asked at once.

        Raises:
          ValueError: if the two are not of one base, method, layers and settings, the method is
            "finetune", or a question (subject and prompt) stands in both.
        """
        weight, names = self.weight, ["method", "weight", "prefixes", "settings"]
        if self.settings.get("units") == "model" and self.settings == other.settings:
            # Both weights are one multiple of a mean over their facts; so is that of all.
            if weight is not None and other.weight is not None:
                n, more = len(self.facts), len(other.facts)
                weight = (n * weight + more * other.weight) / (n + more)
                names.remove("weight")
        for name in names:
            if (ours := getattr(self, name)) != (theirs := getattr(other, name)):
                raise ValueError(
                    f"other: expected a ledger with the same {name}, {ours}, found {theirs}; edit "
                    "its facts anew"
                )
        if _fingerprint(self) != _fingerprint(other) or self.layers.keys() != other.layers.keys():
            raise ValueError(
                f"other: expected a ledger of layers {sorted(self.layers)} of the same base, "
                f"{_fingerprint(self)}, found one of layers {sorted(other.layers)} of "
                f"{_fingerprint(other)}; edit its facts anew"
            )
        if self.method == "finetune":
            raise ValueError("other: expected edits in closed form, found finetune; edit anew")
        questions = {(fact.subject, fact.prompt) for fact in self.facts}
        for row, fact in enumerate(other.facts):
            if (fact.subject, fact.prompt) in questions:
                text = fact.prompt.replace("{}", fact.subject)
                raise ValueError(
                    f"other: expected other facts, found {text!r} in both; take row {row} out of "
                    f"the second by `kis undo --remove {row}`"
                )
        layers = {}
        for layer, own in self.layers.items():
            asked = jax.tree.map(
                lambda a, b: np.concatenate([a, b]), own.asked, other.layers[layer].asked
            )
            layers[layer] = replayed(asked, self.method, weight)
        return dataclasses.replace(
            self, facts=self.facts + other.facts, layers=layers, weight=weight
        )


# The closed form of each method: "rome" asks for values that were found one after another.
RULES: dict[str, str] = {
    "rome": "sequential",
    "sequential": "sequential",
    "constrained": "constrained",
    "batch": "batch",
    "null-space": "null_space",
}


def replayed(asked: Asked, method: str, weight: float | None) -> LayerLedger:
    """What a method makes of what is asked of a layer, in float64 on the host."""
    return LayerLedger(HOST.run(replay, asked, RULES[method], weight=weight), asked)


def _fingerprint(ledger: Ledger) -> str:
    return ledger.base.fingerprint if ledger.base else "none"
