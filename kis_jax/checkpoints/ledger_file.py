"""Ledgers on disk: one safetensors file, whose header tells what was edited."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kis_jax.checkpoints.files import find, write_atomically
from kis_jax.checkpoints.ledger import Base, EditedFact, LayerLedger, Ledger
from kis_jax.checkpoints.safetensors_header import open_safetensors, read_metadata
from kis_jax.checkpoints.writing import Unwritten, mark, write_safetensors
from kis_jax.core.editing.ledger import Edit
from kis_jax.core.editing.recipes import recipe
from kis_jax.core.editing.replay import Asked

LEDGER = "ledger.safetensors"
_FORMAT, _OF_EXPERTS = 1, 2
_EDIT = ("directions", "residuals")
# By their names in the file, of which one is older than that in the library.
_ASKED = {"keys": "keys", "solved": "solved", "requested": "initial_residuals"}
_FILTERED = "written"
_OF_KEYS = ("directions", "keys", "solved", _FILTERED)  # as wide as the memory has rows


def save_ledger(ledger: Ledger, directory: str | Path) -> None:
    """Writes `ledger.safetensors`: for each layer, float64, the edit and what it follows from.

    Tensors are `layers.3.directions` `(r, d)` and `layers.3.residuals` `(r, m)`, whose product
    `directions.T @ residuals` is what was added to the kernel; `keys`, `solved`, `requested` and,
    where filters had a part in it, `written` are of `core.replay.Asked`. Names of facts, settings
    and a digest stand in the header. Of a mixture, `layers.3.experts` are the experts that any fact
    reaches, and what is as wide as keys has one part for each of these, `(r, experts, d)`.

    Args:
      ledger: to be written.
      directory: in which it is put; made if it does not exist. A ledger in it is replaced.

    Raises:
      OSError: if it cannot be written; nothing is left under its name then, or what was there.

    Examples:
      >>> import tempfile
      >>> edit = Edit(np.ones((1, 4)), np.ones((1, 2)), rule="batch")
      >>> fact = EditedFact(7, "Vera Holm", "{} speaks", "Orvish")
      >>> ledger = Ledger("finetune", (fact,), {3: LayerLedger(edit, None)})
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     save_ledger(ledger, folder)
      ...     load_ledger(folder).facts == ledger.facts
      True
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    arrays = _arrays(ledger)
    about = json.dumps(_about(ledger), ensure_ascii=False)
    tensors = {
        name: Unwritten(array.shape, array.dtype, lambda array=array: array)
        for name, array in arrays.items()
    }
    metadata = {**mark(), "ledger": about, "digest": _digest(about, arrays)}
    with write_atomically(directory / LEDGER) as path:
        write_safetensors(path, tensors, metadata=metadata)


def load_ledger(directory: str | Path) -> Ledger:
    """The ledger of an edited model.

    Args:
      directory: of the model, or of the ledger alone.

    Returns:
      The ledger, bit for bit as it was saved.

    Raises:
      ValueError: if there is none, or it is damaged or of another version, naming the file.

    Examples:
      >>> load_ledger("/nowhere")
      Traceback (most recent call last):
      ValueError: /nowhere/ledger.safetensors: no such file; ...
    """
    directory = Path(directory)
    path = find(directory, LEDGER)
    if path is None:
        raise ValueError(
            f"{directory / LEDGER}: no such file; name a folder that `kis edit` has written"
        )
    arrays = {name: np.array(stored.array()) for name, stored in open_safetensors(path).items()}
    metadata = read_metadata(path)
    about = metadata.get("ledger", "")
    if metadata.get("digest") != _digest(about, arrays):
        raise _damaged(path, "its numbers or names are not those that were saved")
    try:
        return _ledger(json.loads(about), arrays)
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(path, f"{type(error).__name__}: {error}") from error


def _about(ledger: Ledger) -> dict[str, Any]:
    return {
        "format": _FORMAT if ledger.experts == 1 else _OF_EXPERTS,
        **({} if ledger.experts == 1 else {"experts": ledger.experts}),
        "method": ledger.method,
        "weight": ledger.weight,
        "prefixes": ledger.prefixes,
        "settings": ledger.settings,
        "base": None if ledger.base is None else dataclasses.asdict(ledger.base),
        "facts": [dataclasses.asdict(fact) for fact in ledger.facts],
        "layers": sorted(ledger.layers),
    }


def _arrays(ledger: Ledger) -> dict[str, np.ndarray]:
    arrays = {}
    for layer, own in sorted(ledger.layers.items()):
        parts = {name: getattr(own.edit, name) for name in _EDIT}
        if own.asked is not None:
            parts |= {name: getattr(own.asked, field) for name, field in _ASKED.items()}
            if own.asked.written is not None:
                parts[_FILTERED] = own.asked.written
        if ledger.experts > 1:
            whole = {
                name: np.asarray(parts[name]).reshape(len(parts[name]), ledger.experts, -1)
                for name in _OF_KEYS
                if name in parts
            }
            reached = np.any([part.any(axis=(0, 2)) for part in whole.values()], axis=0)
            parts |= {name: part[:, reached] for name, part in whole.items()}
            parts["experts"] = np.flatnonzero(reached)
        for name, part in parts.items():
            arrays[f"layers.{layer}.{name}"] = np.ascontiguousarray(part, np.float64)
    return arrays


def _ledger(about: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Ledger:
    experts = about.get("experts", 1)
    expected = _FORMAT if experts == 1 else _OF_EXPERTS
    if about["format"] != expected:
        raise ValueError(f"format {expected} expected, {about['format']} found")
    method = about["method"]
    rule = recipe(method).base.rule
    layers = {}
    for layer in about["layers"]:
        parts: dict[str, Any] = {
            name: arrays[f"layers.{layer}.{name}"] for name in (*_EDIT, *(_ASKED if rule else ()))
        }
        if (name := f"layers.{layer}.{_FILTERED}") in arrays:
            parts[_FILTERED] = arrays[name]
        if experts > 1:
            reached = arrays[f"layers.{layer}.experts"].astype(int)
            for name in _OF_KEYS:
                if name in parts:
                    rows, _, d = parts[name].shape
                    whole = np.zeros((rows, experts, d))
                    whole[:, reached] = parts[name]
                    parts[name] = whole.reshape(rows, experts * d)
        asked = None
        if rule:
            given = (parts[name] for name in ("keys", "solved", "requested"))
            asked = Asked(*given, written=parts.get(_FILTERED))
        edit = Edit(
            parts["directions"],
            parts["residuals"],
            parts.get("requested"),
            rule or "batch",
        )
        layers[layer] = LayerLedger(edit, asked)
    return Ledger(
        method,
        tuple(_fact(fact) for fact in about["facts"]),
        layers,
        about["weight"],
        tuple(about["prefixes"]),
        about["settings"],
        None if about["base"] is None else Base(**about["base"]),
        experts,
    )


def _fact(told: Mapping[str, Any]) -> EditedFact:
    return EditedFact(**{**told, "replaces": tuple(told.get("replaces", ()))})


def _digest(about: str, arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of all that a ledger says, shapes too."""
    digest = hashlib.sha256(about.encode())
    for name, array in sorted(arrays.items()):
        digest.update(f"{name}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _damaged(path: Path, reason: str) -> ValueError:
    return ValueError(
        f"{path}: expected a ledger as kis_jax saved it, found it damaged ({reason}); take the "
        "copy of a backup, or edit the base anew"
    )
