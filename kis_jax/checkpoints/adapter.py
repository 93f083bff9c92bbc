"""Adapters: edits as a LoRA adapter in the layout of `peft`, for those who serve with torch."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kis_jax import factlm
from kis_jax.checkpoints.files import check_replaceable, find, write_directory_atomically
from kis_jax.checkpoints.hub import locate
from kis_jax.checkpoints.opening import read_config
from kis_jax.checkpoints.writing import Unwritten, is_marked, mark, write_safetensors
from kis_jax.core.editing.ledger import Edit
from kis_jax.models import DecoderConfig, ModelConfig
from kis_jax.models.families import Family, Weight
from kis_jax.models.families.family import AsIs, Transposed

MEMORY = "blocks.mlp.output.kernel"  # the second matrix of the MLP, which edits write
_EXPERTS_PARAMETER = "down_proj"  # of torch's modules of experts, whatever their files say
_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def save_adapter(edits: Mapping[int, Edit], directory: str | Path, *, source: str | Path) -> None:
    """Writes edits as a LoRA adapter, which `peft` loads beside the model, or merges into it.

    An edit of n facts is an adapter of rank n: the directions are its `lora_A`, the residuals
    its `lora_B`, in float32, and the scaling is 1. Above the rank of the matrix itself, the
    update is written in as few rows as that has. Edits of several layers share one rank, the
    smaller ones filled up with zeros. Of a mixture, whose experts torch holds in one parameter,
    each expert has factors of that rank, zeros where nothing is written (`target_parameters`).

    Args:
      edits: by the layer whose second MLP matrix they update.
      directory: that is made; an earlier adapter of this function in it is replaced.
      source: the model that was edited; only its configuration is read.

    Raises:
      ValueError: if there is no edit, a layer or width is not the model's, a number is not
        finite, or `directory` holds something else.

    Examples:
      >>> import tempfile
      >>> import jax.numpy as jnp
      >>> from kis_jax.core.editing.ledger import Edit
      >>> edit = Edit(directions=jnp.ones((2, 512)), residuals=jnp.ones((2, 128)))
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     save_adapter({3: edit}, folder, source="factlm")
      ...     config = json.loads((Path(folder) / "adapter_config.json").read_text())
      >>> config["target_modules"], config["r"], config["fan_in_fan_out"]
      (['transformer.h.3.mlp.c_proj'], 2, True)

    Reference: Hu et al. 2021 (arXiv 2106.09685), LoRA.
    """
    directory = Path(directory)
    check_replaceable(directory, kind="adapter of save_adapter", foreign=foreign_to_adapter)
    with write_directory_atomically(directory) as temporary:
        write_adapter(edits, temporary, source=source)


def write_adapter(edits: Mapping[int, Edit], directory: Path, *, source: str | Path) -> None:
    """Writes what `save_adapter` writes, into a directory that the caller puts in its place."""
    found = locate(source)
    family, config = read_config(found)
    memories = config.experts_per_layer
    factors = {
        layer: [
            _factors(part, layer, config)
            for part in _by_memory(edit, layer, config.num_layers, memories)
        ]
        for layer, edit in sorted(edits.items())
    }
    if not factors:
        raise ValueError("edits: expected an edit of one layer at least, found none")
    modules = {layer: memory_module(family, config, layer) for layer in factors}
    rank = max(len(a) for parts in factors.values() for a, _ in parts)
    targets = {"target_modules": list(modules.values()), "fan_in_fan_out": _stored_as_is(family)}
    if config.experts is not None:
        names = [f"{module}.{_EXPERTS_PARAMETER}" for module in modules.values()]
        targets = {"target_modules": [], "target_parameters": names, "fan_in_fan_out": False}
    attributes = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM" if isinstance(config, DecoderConfig) else "FEATURE_EXTRACTION",
        "base_model_name_or_path": str(found if source == factlm.NAME else source),
        **targets,
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "inference_mode": True,
    }
    tensors = {}
    for layer, pairs in factors.items():
        a = np.stack([np.pad(a, ((0, rank - len(a)), (0, 0))) for a, _ in pairs])
        b = np.stack([np.pad(b, ((0, 0), (0, rank - b.shape[1]))) for _, b in pairs], axis=-1)
        # Rows of A expert after expert, columns of B one rank of all experts after another.
        parts = {"lora_A": a.reshape(-1, a.shape[-1]), "lora_B": b.reshape(len(b), -1)}
        for part, values in parts.items():
            name = f"base_model.model.{modules[layer]}.{part}.weight"
            tensors[name] = Unwritten(values.shape, values.dtype, lambda values=values: values)
    text = json.dumps(attributes, indent=2) + "\n"
    (directory / _CONFIG).write_text(text, encoding="utf-8")
    write_safetensors(directory / _WEIGHTS, tensors, metadata=mark())


def memory_module(family: Family, config: ModelConfig, layer: int) -> str:
    """The torch module that holds the second MLP matrix of a layer, as its users name it.

    Of a mixture, the one that holds those of all experts.

    Language models are named whole, as `AutoModelForCausalLM` makes them; encoders bare, as
    `AutoModel` does.
    """
    if config.experts is not None:
        return f"{family.prefix}layers.{layer}.mlp.experts"
    source = _row(family).source.replace("{layer}", str(layer)).removesuffix(".weight")
    if not isinstance(config, DecoderConfig):
        return source.removeprefix(family.prefix)
    stored, named = family.modules or ("", "")
    return named + source.removeprefix(stored)


def _row(family: Family) -> Weight:
    return next(row for row in family.weights if row.target == MEMORY)


def _stored_as_is(family: Family) -> bool:
    """Whether torch stores the matrix (in, out), as GPT-2's `Conv1D` does, and not (out, in)."""
    layout = _row(family).layout
    if not isinstance(layout, AsIs | Transposed):
        raise ValueError(
            f"source: expected a family whose second MLP matrix is a tensor of its own, found "
            f"{family.name}, where it is {layout}; export the edited model instead"
        )
    return isinstance(layout, AsIs)


def _by_memory(edit: Edit, layer: int, num_layers: int, memories: int) -> list[Edit]:
    """The edit of each of a layer's memories, whose rows stand one after another."""
    if not 0 <= layer < num_layers:
        raise ValueError(
            f"edits: expected layers of the model, 0 to {num_layers - 1}, found {layer}"
        )
    directions = np.asarray(edit.directions)
    if memories == 1 or directions.ndim != 2 or directions.shape[1] % memories:
        return [edit]  # whose shape is looked at next
    parts: Any = np.split(directions, memories, axis=1)
    return [dataclasses.replace(edit, directions=part) for part in parts]


def _factors(edit: Edit, layer: int, config: ModelConfig) -> tuple[np.ndarray, np.ndarray]:
    """`lora_A` (r, d) and `lora_B` (m, r), with `lora_B @ lora_A` the transposed update."""
    a, b = np.asarray(edit.directions), np.asarray(edit.residuals).T
    d, m = config.mlp_width, config.width
    if a.ndim != 2 or b.ndim != 2 or (a.shape[1], b.shape[0]) != (d, m) or len(a) != b.shape[1]:
        raise ValueError(
            f"edits: layer {layer}: expected directions (n, {d}) and residuals (n, {m}), those of "
            f"the model, found {a.shape} and {b.shape[::-1]}"
        )
    a, b = a.astype(np.float64), b.astype(np.float64)
    if len(a) > min(d, m):  # the update itself is smaller than its factors
        a, b = (b @ a, np.eye(m)) if m <= d else (np.eye(d), b @ a)
    with np.errstate(over="ignore"):
        a, b = a.astype(np.float32), b.astype(np.float32)
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError(
            f"edits: layer {layer}: expected finite numbers in float32, found others; edit again "
            "with a better conditioned second moment"
        )
    return a, b


def foreign_to_adapter(directory: Path) -> set[str]:
    """What `save_adapter` has not written; everything, where the adapter is somebody else's."""
    names = {path.name for path in directory.iterdir()}
    try:
        ours = find(directory, _WEIGHTS) is not None and is_marked(directory / _WEIGHTS)
    except ValueError:  # a link to elsewhere, or a pipe
        ours = False
    return names - {_CONFIG, _WEIGHTS} if ours else names
