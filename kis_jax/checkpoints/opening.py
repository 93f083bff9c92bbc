"""Opening: a directory's configuration and tensors, held against each other, nothing read."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from kis_jax.checkpoints.files import read_json, shortened
from kis_jax.checkpoints.foreign import read_known
from kis_jax.checkpoints.mapped import Shape, StoredTensor
from kis_jax.checkpoints.table import Entry, copies, match
from kis_jax.checkpoints.tensors import open_tensors
from kis_jax.models import ModelConfig
from kis_jax.models.families import FAMILIES, Family

_LAYERS = ("num_hidden_layers", "n_layer", "n_layers")
_MOST_LAYERS = 10_000
# Of torch.compile, of DistributedDataParallel, and of programs that hold a model as a part.
_WRAPPERS = ("_orig_mod.", "module.", "model.")
_NO_HINT = "this family of models is not supported"
_EXPERTS = "of mixtures of experts, mixtral, olmoe, qwen3_moe and gpt_oss are supported"
# What is near a supported family, and may be taken for one.
_HINTS = {
    "gemma3": "of a Gemma 3 that sees images only the text part, gemma3_text, is supported",
    **dict.fromkeys(
        ("qwen3_5", "qwen3_5_text", "qwen3_5_moe", "qwen3_next"),
        "most of its layers are gated delta nets, which kis_jax does not compute",
    ),
    "xlm-roberta": "it is a RoBERTa under another name: write roberta in its place",
    **dict.fromkeys(("deepseek_v3", "granitemoe", "granitemoehybrid", "qwen2_moe"), _EXPERTS),
}


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose tensors are those that its configuration asks for.

    Attributes:
      directory: where it lies.
      family: of the model.
      config: of the model.
      tensors: all tensors of its files by their names, unread; without the name of a wrapper that
        stands before all of them.
      entries: which of them make up which parameter.
      copies: by name, tensors that must repeat another, and the name of that; none is read.
    """

    directory: Path
    family: Family
    config: ModelConfig
    tensors: dict[str, StoredTensor]
    entries: list[Entry]
    copies: dict[str, str]


def open_checkpoint(directory: Path) -> Checkpoint:
    """Opens a checkpoint and checks names, shapes and dtypes; reads headers only.

    Raises:
      ValueError: naming all that is missing, unknown, of another shape, or not in floating point.
    """
    family, config = read_config(directory)
    tensors = open_tensors(directory)
    # A layer has at least one tensor; this spares a damaged file the listing of 10^9 of them.
    if config.num_layers > len(tensors):
        raise ValueError(
            f"{directory}: expected tensors for the {config.num_layers} layers that config.json "
            f"asks for, found {len(tensors)} tensors; check that weights and config.json belong "
            "together"
        )
    shapes = parameter_shapes(family, config)
    tensors, entries = _matched(family, shapes, tensors, directory)
    repeated = copies(family, entries, tensors)
    for name in dict.fromkeys((*(entry.source for entry in entries), *repeated)):
        _check_dtype(name, tensors[name])
    return Checkpoint(directory, family, config, tensors, entries, repeated)


def _matched(
    family: Family, shapes: dict[str, Shape], tensors: dict[str, StoredTensor], directory: Path
) -> tuple[dict[str, StoredTensor], list[Entry]]:
    """Tensors and entries that go together, a wrapper's name before all tensors taken off.

    Names as they stand come first: "model." is a part of many families' own.
    """
    prefix, failure = "", ValueError()
    while True:
        try:
            found = match(family, shapes, {n: t.shape for n, t in tensors.items()}, directory)
            return tensors, found
        except ValueError as error:
            if not prefix:
                failure = error
            elif not prefix.endswith("model."):  # which tells nothing of where it comes from
                failure = ValueError(
                    f"{error}; all names begin with {prefix}, which torch puts before those of a "
                    "model that it compiles or runs in parallel; that alone would not matter"
                )
        wrapper = next((w for w in _WRAPPERS if all(n.startswith(w) for n in tensors)), None)
        if wrapper is None or not tensors:
            raise failure
        prefix += wrapper
        tensors = {name.removeprefix(wrapper): tensor for name, tensor in tensors.items()}


def read_config(directory: Path) -> tuple[Family, ModelConfig]:
    """The family of a checkpoint, bound to its configuration in this library's words."""
    family, config, _ = _read_config(directory)
    return family, config


def ignored_attributes(directory: Path) -> tuple[str, ...]:
    """Names in a checkpoint's `config.json` that no program computes with; see `read_known`."""
    return _read_config(directory)[2]


def _read_config(directory: Path) -> tuple[Family, ModelConfig, tuple[str, ...]]:
    attributes = read_json(directory, "config.json")
    model_type = attributes.get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise ValueError(
            f"{directory / 'config.json'}: model_type: expected one of {', '.join(FAMILIES)}, "
            f"found {model_type!r}; {_HINTS.get(str(model_type), _NO_HINT)}"
        )
    within = text if isinstance(text := attributes.get("text_config"), dict) else {}
    for name in _LAYERS:
        # Before a family lists its layers: a damaged digit must not cost minutes.
        if isinstance(layers := (attributes | within).get(name), int) and layers > _MOST_LAYERS:
            raise ValueError(
                f"{directory / 'config.json'}: {name}: expected at most {_MOST_LAYERS} layers, "
                f"found {shortened(str(layers))}; the file is damaged, download it again"
            )
    family = FAMILIES[model_type]
    try:
        config, ignored = read_known(family, attributes)
    except ValueError as error:
        raise ValueError(shortened(f"{directory}: {error}")) from None
    return family.bound(config), config, ignored


def abstract_model(
    family: Family, config: ModelConfig, dtype: DTypeLike
) -> tuple[Any, dict[tuple[Any, ...], Any]]:
    """The graph of a model and its parameters by their paths, shapes and dtypes only.

    Raises:
      ValueError: if the configuration asks for arrays of impossible sizes.
    """
    try:
        module = nnx.eval_shape(lambda: family.model(config, dtype=dtype, rngs=nnx.Rngs(0)))
    except (TypeError, OverflowError) as error:  # sizes beyond what jax can count
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"config.json: expected sizes of a model, found {config}: {reason}"
        ) from None
    graph, state = nnx.split(module)
    return graph, dict(nnx.to_flat_state(state))


def parameter_shapes(family: Family, config: ModelConfig) -> dict[str, Shape]:
    """The shape of each parameter of a model by its path."""
    _, parameters = abstract_model(family, config, jnp.float32)
    return {path_name(path): leaf.shape for path, leaf in parameters.items()}


def path_name(path: Iterable[object]) -> str:
    """The dotted path of a parameter, as in a family's table."""
    return ".".join(map(str, path))


def _check_dtype(name: str, tensor: StoredTensor) -> None:
    if tensor.dtype not in (jnp.float32, jnp.bfloat16, jnp.float16, jnp.float64):
        raise ValueError(
            f"{tensor.path}: {name}: expected float32, float16 or bfloat16, found {tensor.dtype}; "
            "quantized checkpoints are not supported, use the original"
        )
