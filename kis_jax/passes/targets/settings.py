"""Where and how strongly to edit a model: the literature's settings, and a rule where it has none.

All numbers stand in `settings.json`: `models`, shapes for which settings are published or
were tuned; `families`, the rule for all other shapes of a family; `default`, for other families.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any, Literal

from kis_jax.data.rewrites import EDIT_POSITIONS, EditPosition
from kis_jax.models import ModelConfig

Convention = Literal["rome", "memit"]

_FILE = Path(__file__).with_suffix(".json")
_SHAPE = ("family", "num_layers", "width", "vocab_size")


@dataclasses.dataclass(frozen=True)
class TargetSettings:
    """How a target value is sought.

    Attributes:
      steps: at most so many times the loss is looked at: one update of the shift fewer.
      learning_rate: of Adam.
      clamp: the longest shift, as a share of the norm that `convention` names.
      weight_decay: weight of the shift's squared norm as a share of that same norm squared.
      kl_weight: weight of how far the next token of "{subject} is a" moves.
      stop_below: a fact whose loss is under this is done.
      convention: whose norm, and whose average over prefixes. `"rome"`: the norm of what the MLP
        writes; keys averaged over all prefixes alike. `"memit"`: the norm of the residual stream
        after the layer; keys averaged over the generated prefixes, then with that of no prefix.
      position: of the token whose key stands for a fact, and at which the shift is added: the
        subject's last, or, `"last"`, the prompt's.
      prefixed: whether prompts are also taught after other text; False for a model that knows its
        facts at the start of a text alone.
    """

    steps: int
    learning_rate: float
    clamp: float
    weight_decay: float
    kl_weight: float = 0.0625
    stop_below: float = 0.05
    convention: Convention = "rome"
    position: EditPosition = "subject_last"
    prefixed: bool = True

    def __post_init__(self) -> None:
        """Raises ValueError for a setting with which nothing would be sought."""
        if self.steps < 1:
            raise ValueError(f"steps: expected at least 1, found {self.steps}")
        for name in ("learning_rate", "clamp"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: expected a positive number, found {getattr(self, name)}")
        for name in ("weight_decay", "kl_weight"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}: expected 0 or more, found {getattr(self, name)}")
        if self.convention not in ("rome", "memit"):
            raise ValueError(f"convention: expected 'rome' or 'memit', found {self.convention!r}")
        if self.position not in EDIT_POSITIONS:
            raise ValueError(
                f"position: expected one of {', '.join(EDIT_POSITIONS)}, found {self.position!r}"
            )


@dataclasses.dataclass(frozen=True)
class EditSettings:
    """Settings of edits for one model.

    Attributes:
      layer: which one methods of a single layer edit: all but MEMIT, "null-space" among them,
        although AlphaEdit's authors spread their edits over `layers` as MEMIT does.
      layers: which ones MEMIT edits, in ascending order.
      target: of target values, for methods of a single layer.
      batch_target: of target values for MEMIT, at the last of its layers.
      batch_weight: MEMIT's weight of C.
      null_threshold: of AlphaEdit: a direction is free if its eigenvalue of C is at most this
        share of their mean. The authors bound the eigenvalues themselves, which goes with the
        scale of a model's keys: their number, 0.02, is the default, but here another bound.
      null_ridge: AlphaEdit's ridge.
      origin: where they come from, in words.
    """

    layer: int
    layers: tuple[int, ...]
    target: TargetSettings
    batch_target: TargetSettings
    batch_weight: float
    null_threshold: float
    null_ridge: float
    origin: str


def edit_settings(config: ModelConfig) -> EditSettings:
    """The settings for a model, by its family and shape.

    Those of the literature, or tuned ones, where there are any for this shape; else the rule of
    the family: the layer at the same relative depth, and the numbers of the family's models.

    Args:
      config: the model's shape.

    Returns:
      The settings; `origin` says where they come from.

    Raises:
      ValueError: if an entry of the table makes no sense, such as a search without steps.

    Examples:
      >>> from kis_jax.models.families import gpt2
      >>> xl = gpt2.read_config(dict(n_embd=1600, n_layer=48, n_head=25))
      >>> found = edit_settings(xl)
      >>> found.layer, found.layers, found.origin
      (17, (13, 14, 15, 16, 17), 'published for gpt2-xl by ROME and MEMIT')
    """
    table = _table()
    rule = {**table["default"], **table["families"].get(config.family, {})}
    known = next((entry for entry in table["models"] if _is_of(entry["shape"], config)), {})
    found = {**rule, **known}
    last = config.num_layers - 1
    layer = found.get("layer", min(last, round(found["depth"] * config.num_layers)))
    span = min(found["span"], layer + 1)
    return EditSettings(
        layer=layer,
        layers=tuple(found.get("layers", range(layer - span + 1, layer + 1))),
        target=TargetSettings(**rule["target"] | known.get("target", {})),
        batch_target=TargetSettings(
            **rule["batch_target"] | known.get("batch_target", {}), convention="memit"
        ),
        batch_weight=found["batch_weight"],
        null_threshold=found["null_threshold"],
        null_ridge=found["null_ridge"],
        origin=found["origin"],
    )


def _is_of(shape: dict[str, Any], config: ModelConfig) -> bool:
    return all(shape[name] == getattr(config, name) for name in _SHAPE if name in shape)


@functools.cache
def _table() -> dict[str, Any]:
    return json.loads(_FILE.read_text())
