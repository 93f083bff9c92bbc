"""Where and how strongly to edit a model: settings without units, and the published ones by name.

All numbers stand in `settings.json`: `own`, what is used where nothing else is asked for, in units
of the model; `published`, the literature's, in those of the models that they were chosen for, with
a rule for the other shapes of a family. What `kis tune` found for some models stands in `tuned/`,
files as it writes them.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from kis_jax.data.rewrites import EDIT_POSITIONS, EditPosition
from kis_jax.models import ModelConfig

Convention = Literal["own", "rome", "memit"]
Units = Literal["model", "absolute"]

_FILE = Path(__file__).with_suffix(".json")
_TUNED = Path(__file__).with_name("tuned")
_SHAPE = ("family", "num_layers", "width", "vocab_size")


@dataclasses.dataclass(frozen=True)
class TargetSettings:
    r"""How a target value is sought.

    Attributes:
      steps: at most so many times the loss is looked at: one update of the shift fewer.
      learning_rate: of Adam. Of `"own"` the length of its first step, as a share of $|v_0|$, what
        the MLP writes; a shift then takes the same path whatever the scale of a model's values.
      clamp: the longest shift, as a share of the norm that `convention` names.
      weight_decay: weight of the shift's length as a share of that norm: of its square for
        `"own"`, of $|\delta| / |v_0|^2$ in the authors' programs.
      kl_weight: weight of how far the next token of "{subject} is a" moves; of the authors'
        conventions, that after the subject.
      stop_below: a fact whose loss is under this is done.
      stop_at: so is one whose target is likelier than this, both after the bare prompt and on the
        average over prefixes, by the geometric mean of its tokens; 1 for none. `"own"` then goes
        back to where its last step passed it.
      convention: `"own"`: as said above; lengths are shares of what the MLP writes, keys those
        nearest to all of a fact's texts (see `kis_jax.core.editing.nearest`). `"rome"` and
        `"memit"`: the search of their authors' programs. `"rome"`: the norm of what the MLP
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
    stop_at: float = 1.0
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
        if not 0 < self.stop_at <= 1:
            raise ValueError(f"stop_at: expected a probability above 0, found {self.stop_at}")
        if self.convention not in get_args(Convention):
            raise ValueError(
                f"convention: expected one of {', '.join(get_args(Convention))}, found "
                f"{self.convention!r}"
            )
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
      batch_target: of target values for MEMIT and AlphaEdit, at the last of their layers.
      weight: MEMIT's weight of C; see `units`.
      null_space: which directions AlphaEdit leaves free; see `units`.
      null_ridge: AlphaEdit's ridge; see `units`.
      units: of these three. "model": the weight in multiples of the mean of k C^-1 k over the
        bare prompts' keys of the facts, the ridge likewise of k N k, the free directions by the
        share of ordinary text's energy, tr(N C) / tr(C), that they hold at most. "absolute": as
        published; the free directions are those whose eigenvalue of C is at most `null_space`.
      origin: where they come from, in words.
      anchor: the length that target values are given by "+anchor"; 0: the mean length of those of
        the facts, found on the unedited model.
      protected: of the kernel's energy, the share in whose directions "+protect" writes nothing.
      budget: how often the damage of its first block LyapLock may do before its weight rises.
      gradient_step: of UltraEdit, the length of a typical shift, in those of what the MLP writes.
      gradient_ridge: of UltraEdit, as a share of the mean square of the keys.
    """

    layer: int
    layers: tuple[int, ...]
    target: TargetSettings
    batch_target: TargetSettings
    weight: float
    null_space: float
    null_ridge: float
    units: Units
    origin: str
    anchor: float = 0.0
    protected: float = 0.3
    budget: float = 60.0
    gradient_step: float = 3.0
    gradient_ridge: float = 0.1

    def __post_init__(self) -> None:
        """Raises ValueError for a number that no method can go by."""
        for name in ("weight", "null_space", "null_ridge"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name}: expected a positive number, found {getattr(self, name)}")
        if not 0 <= self.anchor < float("inf"):
            raise ValueError(f"anchor: expected a length, or 0 for the mean, found {self.anchor}")
        if not 0 < self.protected < 1:
            raise ValueError(f"protected: expected a share between 0 and 1, found {self.protected}")
        for name in ("budget", "gradient_step", "gradient_ridge"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name}: expected a positive number, found {getattr(self, name)}")
        if self.units not in get_args(Units):
            raise ValueError(
                f"units: expected one of {', '.join(get_args(Units))}, found {self.units!r}"
            )
        if self.units == "model" and self.null_space > 1:
            raise ValueError(
                f"null_space: expected a share of ordinary text's energy, at most 1, found "
                f"{self.null_space}; it bounds eigenvalues with units=absolute alone"
            )


def check_together(layers: Sequence[int], config: ModelConfig) -> None:
    """Raises ValueError if edits of these layers do not add up in a family, as its config tells."""
    if len(layers) > 1 and getattr(config, "norms_after", False):
        raise ValueError(
            f"layers: expected one for {config.family}, which has a norm after its MLP, so that "
            f"what several layers write does not add up, found {list(layers)}; pass one of them"
        )


def edit_settings(config: ModelConfig) -> EditSettings:
    """The settings for a model where nothing else is asked for, in units of the model.

    Args:
      config: the model's shape.

    Returns:
      Those that `kis tune` found for a model of this shape, if they come with the package, or by
      rule; `origin` says where they come from.

    Raises:
      ValueError: if an entry of the table makes no sense, such as a search without steps.

    Examples:
      >>> from kis_jax.models.families import gpt2
      >>> found = edit_settings(gpt2.read_config(dict(n_embd=768, n_layer=12, n_head=12)))
      >>> found.layer, found.layers, found.units
      (4, (4,), 'model')
    """
    table = _table()["own"]
    known = next((entry for entry in table["models"] if _is_of(entry["shape"], config)), None)
    if known is None:
        return rule_settings(config)
    told = _shipped(known["tuned"])
    layer = known.get("layer", told["settings"]["layer"])
    found = told["settings"] | {"layer": layer, "layers": [layer]}
    return _from_flat(found, known.get("origin", told["origin"]))


def rule_settings(config: ModelConfig) -> EditSettings:
    """The settings by rule, whatever was found for a model of this shape; see `edit_settings`."""
    return _settings({**_table()["own"], "models": []}, config, "own", "own")


def shipped_settings(fingerprint: str) -> EditSettings | None:
    """What `kis tune` found for the model with this fingerprint, if it comes with the package."""
    told = shipped_record(fingerprint)
    return None if told is None else _from_flat(told["settings"], told["origin"])


def shipped_record(fingerprint: str) -> dict[str, Any] | None:
    """The file that `kis tune` wrote for a model, if it comes with the package."""
    records = (_shipped(path.stem) for path in sorted(_TUNED.glob("*.json")))
    return next((told for told in records if told["model"] == fingerprint), None)


def _from_flat(told: Mapping[str, Any], origin: str) -> EditSettings:
    own = {name: value for name, value in told.items() if "." not in name}
    target = TargetSettings(**{
        name.removeprefix("target."): value for name, value in told.items() if "." in name
    })  # fmt: skip
    own |= {"layers": tuple(own["layers"]), "target": target, "batch_target": target}
    return EditSettings(**own, origin=origin)


@functools.cache
def _shipped(name: str) -> dict[str, Any]:
    return json.loads((_TUNED / f"{name}.json").read_text(encoding="utf-8"))


def published_settings(config: ModelConfig) -> EditSettings:
    """The literature's settings for a model, by its family and shape.

    Where there are none for this shape, the rule of the family: the layer at the same relative
    depth, and the numbers of the family's models.

    Args:
      config: the model's shape.

    Returns:
      The settings; `origin` says where they come from.

    Raises:
      ValueError: if an entry of the table makes no sense, such as a search without steps.

    Examples:
      >>> from kis_jax.models.families import gpt2
      >>> xl = gpt2.read_config(dict(n_embd=1600, n_layer=48, n_head=25))
      >>> found = published_settings(xl)
      >>> found.layer, found.layers, found.origin
      (17, (13, 14, 15, 16, 17), 'published for gpt2-xl by ROME and MEMIT')
    """
    return _settings(_table()["published"], config, "rome", "memit")


def _settings(
    table: Mapping[str, Any], config: ModelConfig, convention: Convention, together: Convention
) -> EditSettings:
    rule = {**table["default"], **table["families"].get(config.family, {})}
    known = next((entry for entry in table["models"] if _is_of(entry["shape"], config)), {})
    found = {**rule, **known}
    # What the last layer writes at a subject no later token reads.
    last = max(config.num_layers - 2, 0)
    layer = found.get("layer", min(last, round(found["depth"] * config.num_layers)))
    span = 1 if getattr(config, "norms_after", False) else min(found["span"], layer + 1)
    conventions: list[tuple[str, Convention]] = [
        ("target", convention),
        ("batch_target", together),
    ]
    targets = [
        TargetSettings(
            **rule.get(name, rule["target"]) | known.get(name, known.get("target", {})),
            convention=whose,
        )
        for name, whose in conventions
    ]
    return EditSettings(
        layer,
        tuple(found.get("layers", range(layer - span + 1, layer + 1))),
        *targets,
        weight=found["weight"],
        null_space=found["null_space"],
        null_ridge=found["null_ridge"],
        units="model" if convention == "own" else "absolute",
        origin=found["origin"],
    )


def _is_of(shape: dict[str, Any], config: ModelConfig) -> bool:
    return all(shape[name] == getattr(config, name) for name in _SHAPE if name in shape)


@functools.cache
def _table() -> dict[str, Any]:
    return json.loads(_FILE.read_text())
