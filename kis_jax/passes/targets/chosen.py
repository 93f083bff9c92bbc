"""The settings that are used: by rule, tuned for the model, from a file, or published; and changed.

A file of settings is a JSON object of names, as `--set` has them, and values; `kis tune` writes
one with its evidence, under `"settings"`, and the fingerprint of the model that it is for.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kis_jax.checkpoints.files import cache_folder
from kis_jax.models import ModelConfig
from kis_jax.passes.targets.settings import (
    EditSettings,
    TargetSettings,
    check_together,
    edit_settings,
    published_settings,
    rule_settings,
    shipped_settings,
)

AUTO, RULE, PUBLISHED = "auto", "rule", "published"

_OF_TARGET = typing.get_type_hints(TargetSettings)
_OF_EDIT = {
    name: kind
    for name, kind in typing.get_type_hints(EditSettings).items()
    if name not in ("target", "batch_target", "origin")
}
NAMES: dict[str, Any] = {**_OF_EDIT, **{f"target.{name}": _OF_TARGET[name] for name in _OF_TARGET}}
"""Of all settings that can be set, with their types; those of `target` are set for all methods."""


def chosen_settings(
    config: ModelConfig,
    *,
    source: str = AUTO,
    changes: Sequence[str] = (),
    fingerprint: str | None = None,
) -> EditSettings:
    """The settings that a request names.

    Args:
      config: of the model.
      source: "auto", those that `kis tune` found for the model, where it has been run or they come
        with the package, else by rule; "rule"; "published", the literature's; or a file.
      changes: "name=value" each; see `NAMES`.
      fingerprint: of the model; None: no tuned file is looked for.

    Raises:
      ValueError: if a name is unknown, with the nearest that there is, a value makes no sense, a
        file cannot be read or is for another model, or layers do not go together in the family.
    """
    if source == PUBLISHED:
        found = published_settings(config)
    else:
        found = rule_settings(config)
        path = None if source in (RULE, AUTO) else Path(source)
        if source == AUTO:
            own = None if fingerprint is None else tuned_file(fingerprint)
            if own is not None and own.is_file():
                path = own
            else:
                shipped = None if fingerprint is None else shipped_settings(fingerprint)
                found = shipped or edit_settings(config)
        if path is not None:
            found = _from_file(found, path, fingerprint, config)
    told = [_parted(change) for change in changes]
    if told:
        found = _changed(found, dict(told), config, "set")
        origin = f"{found.origin}; set: {', '.join(changes)}"
        found = dataclasses.replace(found, origin=origin)
    check_together(found.layers, config)
    return found


def tuned_file(fingerprint: str) -> Path:
    """Where the settings that `kis tune` finds for a model are kept."""
    return cache_folder() / "settings" / f"{fingerprint[:32]}.json"


def flat(settings: EditSettings) -> dict[str, Any]:
    """Settings by the names of `NAMES`, plain JSON values; those of the target for one layer.

    Example:
      >>> from kis_jax.models.families import gpt2
      >>> found = flat(edit_settings(gpt2.read_config({})))
      >>> found["units"], found["target.convention"]
      ('model', 'own')
    """
    own = {name: getattr(settings, name) for name in _OF_EDIT}
    own["layers"] = list(settings.layers)
    return {**own, **{f"target.{name}": getattr(settings.target, name) for name in _OF_TARGET}}


def _from_file(
    rule: EditSettings, path: Path, fingerprint: str | None, config: ModelConfig
) -> EditSettings:
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(
            f"settings: expected auto, rule, published or a file, found {str(path)!r}, which "
            f"cannot be read ({error.strerror})"
        ) from None
    except ValueError as error:
        raise ValueError(f"settings: {path}: expected a JSON object, found {error}") from None
    own = told.get("settings", told) if isinstance(told, dict) else None
    if not isinstance(own, dict):
        raise ValueError(
            f"settings: {path}: expected a JSON object of names and values, found "
            f"{type(told).__name__}"
        )
    of = told.get("model") if own is not told else None
    if of is not None and fingerprint is not None and of != fingerprint:
        raise ValueError(
            f"settings: {path}: expected those of this model, {fingerprint[:16]}, found those of "
            f"{str(of)[:16]}; run kis tune for it, or name the settings by --set"
        )
    found = _changed(rule, own, config, f"settings: {path}")
    origin = told.get("origin") if own is not told else None
    return dataclasses.replace(found, origin=str(origin or f"from {path}"))


def _parted(change: str) -> tuple[str, str]:
    name, equals, value = change.partition("=")
    if not equals or not name.strip() or not value.strip():
        raise ValueError(f"set: expected name=value, such as target.steps=40, found {change!r}")
    return name.strip(), value.strip()


def _changed(
    settings: EditSettings, told: Mapping[str, Any], config: ModelConfig, where: str
) -> EditSettings:
    """Settings with others for those that are named."""
    own: dict[str, Any] = {}
    target: dict[str, Any] = {}
    for name, value in told.items():
        if name not in NAMES:
            near = difflib.get_close_matches(name, NAMES, 1, 0.0)
            last = difflib.get_close_matches(name, [n.rpartition(".")[2] for n in NAMES], 1, 0.75)
            near = [n for n in NAMES if last and n.rpartition(".")[2] == last[0]] or near
            raise ValueError(
                f"{where}: expected one of the settings, found {name!r}; the nearest is {near[0]}"
            )
        parsed = _parsed(name, value, where)
        if name.startswith("target."):
            target[name.removeprefix("target.")] = parsed
        else:
            own[name] = parsed
    if "layer" in own and "layers" not in own:
        own["layers"] = (own["layer"],)
    for layer in (*own.get("layers", ()), *([own["layer"]] if "layer" in own else [])):
        if not 0 <= layer < config.num_layers:
            raise ValueError(
                f"{where}: layer: expected one of the model, 0 to {config.num_layers - 1}, found "
                f"{layer}"
            )
    try:
        own["target"] = dataclasses.replace(settings.target, **target)
        own["batch_target"] = dataclasses.replace(settings.batch_target, **target)
        return dataclasses.replace(settings, **own)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _parsed(name: str, value: Any, where: str) -> Any:
    """A value from the text of an option, or from JSON, in the type of its setting."""
    kind = NAMES[name]
    try:
        if kind is bool:
            return {"true": True, "false": False}[str(value).lower()]
        if kind is int:
            return int(str(value))
        if kind is float:
            return float(str(value))
        if name == "layers":
            parts = value.split(",") if isinstance(value, str) else value
            if layers := tuple(sorted({int(part) for part in parts})):
                return layers
        elif isinstance(value, str):  # one of some words: the settings check which
            return value
    except (ValueError, KeyError, TypeError):
        pass
    words = {bool: "true or false", int: "a whole number", float: "a number"}
    expected = words.get(kind, "layers such as 2,3" if name == "layers" else "a word")
    raise ValueError(f"{where}: {name}: expected {expected}, found {value!r}")
