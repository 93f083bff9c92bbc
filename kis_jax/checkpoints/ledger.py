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
from kis_jax.core.editing.recipes import recipe
from kis_jax.core.editing.replay import Asked, replay


@dataclasses.dataclass(frozen=True)
class EditedFact:
    """One line of a ledger.

    Attributes:
      case_id: its number or name in the data set.
      subject: the subject's name.
      prompt: with one `{}` where the subject belongs.
      target: the object that was written.
      replaces: the objects that were written for it before, the earliest first; none of them is in
        the model any more.
    """

    case_id: int | str
    subject: str
    prompt: str
    target: str
    replaces: tuple[str, ...] = ()

    @property
    def question(self) -> tuple[str, str]:
        """Subject and prompt, of which only one answer can stand; case and blanks do not count."""
        subject, prompt = (" ".join(part.split()) for part in (self.subject, self.prompt))
        return subject.casefold(), prompt.casefold()


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
      asked: what the edit follows from, a row for each fact; None where the update follows from
        nothing smaller than itself, as that of "finetune".
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
      weight: of least squares, or the ridge of a null space; None for methods without.
      prefixes: put before the prompts for keys and target values; "" is none.
      settings: plain JSON values: all else that the numbers depend on.
      base: the model that was edited; None for edits that were made in memory alone.
      experts: memories of a layer, whose rows and columns of keys stand one after another; 1 where
        layers have one MLP.
    """

    method: str
    facts: tuple[EditedFact, ...]
    layers: Mapping[int, LayerLedger]
    weight: float | None = None
    prefixes: tuple[str, ...] = ("",)
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    base: Base | None = None
    experts: int = 1

    def __repr__(self) -> str:
        """A line without the arrays: `Ledger(3 edits by constrained in layer 5)`."""
        layers = "layer" if len(self.layers) == 1 else "layers"
        where = ", ".join(map(str, self.layers))
        return f"Ledger({len(self.facts)} edits by {self.method} in {layers} {where})"

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
        return len(self.layers) == 1 and self._follows

    @property
    def _follows(self) -> bool:
        return all(own.asked is not None for own in self.layers.values())

    def shares(self, layer: int, row: int) -> tuple[float, np.ndarray] | None:
        """What one edit was asked to write in a layer, and where it lands.

        Returns:
          The length of what its value lacked, and `(n,)`, p: the share of the edit that lands on
          each of the facts. None where the update follows from nothing smaller.
        """
        asked = self.layers[layer].asked
        if asked is None:
            return None
        wanted: Any = asked.initial_residuals[row]
        return float(lengths(wanted)), np.asarray(asked.superposition[row])

    def written(self, layer: int, row: int | None = None) -> list[int]:
        """The experts that one edit writes to in a layer, or all of them together."""
        directions = np.asarray(self.layers[layer].edit.directions)
        directions = directions if row is None else directions[row : row + 1]
        parts = directions.reshape(len(directions), self.experts, -1)
        return np.flatnonzero(parts.any(axis=(0, 2))).tolist()

    def take(self, order: Sequence[int]) -> Ledger:
        """The ledger of some of the facts, or of all in another order: `ledger.take([2, 0])`.

        Needs neither the model nor the second moment; see `core.replay`. Target values stay as
        they are: those of "rome", found on the model that the edits before had left, are not
        found again. For several layers see `exact`.

        Args:
          order: rows, counted from 0, each at most once, in the order wanted.

        Raises:
          ValueError: if a row is not there or comes twice, none is left, or the method is
            one that moves all facts at once and these are not all rows as they are.
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
        if not self._follows:
            raise ValueError(
                f"order: expected all rows, as {self.method} moves all facts at once, found "
                f"{len(order)} of {n}; undo all of them, and edit anew those wanted"
            )
        layers = {
            layer: replayed(own.asked.take(np.array(order)), self.method, self.weight)
            for layer, own in self.layers.items()
            if own.asked is not None
        }
        facts = tuple(self.facts[row] for row in order)
        return dataclasses.replace(self, facts=facts, layers=layers)

    def replace(self, other: Ledger) -> Ledger:
        """The ledger of both, without those of one's own facts that the other answers anew.

        A fact that is edited again is replaced, not fought: its key and its old answer leave the
        solve, so that after any number of answers the update is that of the last one alone.

        Raises:
          ValueError: as `merge`, or if some edits cannot be taken out of this ledger.
        """
        old = {fact.question: fact for fact in self.facts}
        facts = tuple(
            fact
            if (before := old.get(fact.question)) is None
            else dataclasses.replace(fact, replaces=(*before.replaces, before.target))
            for fact in other.facts
        )
        newer, asked = dataclasses.replace(other, facts=facts), {fact.question for fact in facts}
        rest = [row for row, fact in enumerate(self.facts) if fact.question not in asked]
        if rest:
            return self.take(rest).merge(newer)
        self._check_of_one_kind(other)
        return newer

    def merge(self, other: Ledger) -> Ledger:
        """The ledger of both, the other's facts after one's own, as if all had been asked at once.

        Raises:
          ValueError: if the two are not of one base, method, layers and settings, the method
            moves all facts at once, or a question (subject and prompt) stands in both.
        """
        weight = self._check_of_one_kind(other)
        questions = {fact.question for fact in self.facts}
        for row, fact in enumerate(other.facts):
            if fact.question in questions:
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

    def _check_of_one_kind(self, other: Ledger) -> float | None:
        """The weight of both together.

        Raises:
          ValueError: if they are not of one base, method, layers and settings.
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
        if not self._follows:
            raise ValueError(
                f"other: expected edits in closed form, found {self.method}; edit anew"
            )
        return weight


def rule_of(method: str) -> str:
    """The closed form of a method."""
    rule = recipe(method).base.rule
    assert rule is not None, f"{method} has none"
    return rule


def replayed(asked: Asked, method: str, weight: float | None) -> LayerLedger:
    """What a method makes of what is asked of a layer, in float64 on the host."""
    return LayerLedger(HOST.run(replay, asked, rule_of(method), weight=weight), asked)


def _fingerprint(ledger: Ledger) -> str:
    return ledger.base.fingerprint if ledger.base else "none"
