"""What a model is and what a scan of it takes, from its configuration and file headers alone."""

from __future__ import annotations

import dataclasses
import math

import jax

from kis_jax.checkpoints.adapter import MEMORY
from kis_jax.checkpoints.hub import locate
from kis_jax.checkpoints.mapped import Shape
from kis_jax.checkpoints.opening import (
    ignored_attributes,
    open_checkpoint,
    parameter_shapes,
    read_config,
)
from kis_jax.checkpoints.tensors import has_weights
from kis_jax.models import ModelConfig
from kis_jax.models.families import Family
from kis_jax.passes.memory import ScanMemory, checked_length, scan_memory


@dataclasses.dataclass(frozen=True)
class Architecture:
    """The shape of a model.

    Attributes:
      family: `model_type` of its `config.json`.
      num_layers: number of blocks.
      width: of the residual stream; also of values, m.
      key_dimension: width of the MLP's hidden layer, d.
      num_heads: attention heads.
      num_kv_heads: heads of attention's keys and values.
      head_dim: width of a head.
      vocab_size: number of tokens.
      context_length: the most tokens of a text.
      num_parameters: numbers in the model, a tied head counted once.
      num_experts: MLPs in a layer; 1 where it is no mixture.
      experts_per_token: how many of them read a token.
      memory_tensor: the checkpoint's name for the second MLP matrix, which edits write.
    """

    family: str
    num_layers: int
    width: int
    key_dimension: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    context_length: int
    num_parameters: int
    memory_tensor: str
    num_experts: int = 1
    experts_per_token: int = 1


@dataclasses.dataclass(frozen=True)
class StoredWeights:
    """The files of a checkpoint.

    Attributes:
      files: their number.
      bytes: of all tensors.
      dtypes: bytes of the tensors of each dtype.
    """

    files: int
    bytes: int
    dtypes: dict[str, int]


@dataclasses.dataclass(frozen=True)
class ScanCost:
    """Floating-point operations of the pass that measures C at all layers.

    Attributes:
      tokens: how many are counted.
      forward_per_token: of the forward pass, attention at the full length of a text; no logits
        are computed.
      second_moment_per_token: of adding each token's keys to C, `2 * layers * d * d`; products
        that use the symmetry of C take down to half of that.
      total: of all tokens.
    """

    tokens: int
    forward_per_token: int
    second_moment_per_token: int
    total: int


@dataclasses.dataclass(frozen=True)
class Inspection:
    """What `kis inspect` tells of a model.

    Attributes:
      model: its name, as it was given.
      directory: where it lies.
      device: the one that was asked for its memory.
      architecture: its shape.
      weights: its files; None if the directory has none.
      memory: what a scan holds.
      cost: what C costs.
      ignored_attributes: names in its `config.json` that are set and change nothing.
    """

    model: str
    directory: str
    device: str
    architecture: Architecture
    weights: StoredWeights | None
    memory: ScanMemory
    cost: ScanCost
    ignored_attributes: tuple[str, ...] = ()


def inspect_model(
    model: str,
    *,
    dtype: str = "float32",
    num_documents: int = 100_000,
    document_length: int | None = None,
    tokens: int | None = None,
) -> Inspection:
    """Reads a model's configuration and the headers of its files; no weights are read.

    Of a model on the hub only the configuration is fetched.

    Args:
      model: a local directory, a hub name, or "factlm".
      dtype: of the forward pass, "float32" or "bfloat16".
      num_documents: for C, each of the most tokens that a scan would read of it.
      document_length: tokens at which texts are cut; if None, what a scan takes without it.
      tokens: for C, in place of documents.

    Raises:
      ValueError: if the model is of no known family, its files are damaged, or a number is not
        positive.

    Examples:
      >>> found = inspect_model("factlm", tokens=1000)
      >>> found.architecture.memory_tensor, found.cost.tokens
      ('transformer.h.{layer}.mlp.c_proj.weight', 1000)
    """
    for name, number in (("num_documents", num_documents), ("tokens", tokens)):
        if number is not None and number < 1:
            raise ValueError(f"{name}: expected a positive number, found {number}")
    directory = locate(model, weights=False)
    family, config = read_config(directory)
    names = None
    weights = None
    if has_weights(directory):
        checkpoint = open_checkpoint(directory)
        config, names = checkpoint.config, set(checkpoint.tensors)
        dtypes: dict[str, int] = {}
        for tensor in checkpoint.tensors.values():
            dtypes[tensor.dtype.name] = dtypes.get(tensor.dtype.name, 0) + tensor.nbytes
        files = len({tensor.path for tensor in checkpoint.tensors.values()})
        weights = StoredWeights(files, sum(dtypes.values()), dtypes)
    shapes = parameter_shapes(family, config)
    length = checked_length(document_length, config)
    num_tokens = num_documents * length if tokens is None else tokens
    return Inspection(
        model=model,
        directory=str(directory),
        device=jax.local_devices()[0].device_kind,
        architecture=_architecture(family, config, shapes, names),
        weights=weights,
        memory=scan_memory(config, shapes, dtype, length),
        cost=_cost(config, shapes, num_tokens, length),
        ignored_attributes=ignored_attributes(directory),
    )


def _architecture(
    family: Family, config: ModelConfig, shapes: dict[str, Shape], stored: set[str] | None
) -> Architecture:
    return Architecture(
        family=config.family,
        num_layers=config.num_layers,
        width=config.width,
        key_dimension=config.mlp_width,
        num_heads=config.num_heads,
        num_kv_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        vocab_size=config.vocab_size,
        context_length=config.context_length,
        num_parameters=sum(map(math.prod, shapes.values())),
        memory_tensor=_memory_tensor(family, stored),
        num_experts=config.experts_per_layer,
        experts_per_token=config.experts_per_token,
    )


def _memory_tensor(family: Family, stored: set[str] | None) -> str:
    name = next(row.source for row in family.weights if row.target == MEMORY)
    if stored is None or name.replace("{layer}", "0").replace("{expert}", "0") in stored:
        return name
    return name.removeprefix(family.prefix)


def _cost(config: ModelConfig, shapes: dict[str, Shape], tokens: int, length: int) -> ScanCost:
    read = config.experts_per_token / config.experts_per_layer  # of a mixture, by each token
    matrices = sum(
        round(math.prod(shape) * (read if len(shape) > 3 else 1))
        for name, shape in shapes.items()
        if name.startswith("blocks.") and len(shape) > 2
    )
    attention = 4 * config.num_layers * length * config.num_heads * config.head_dim
    forward, gram = 2 * matrices + attention, 2 * config.num_layers * config.mlp_width**2
    gram *= config.experts_per_token
    return ScanCost(tokens, forward, gram, tokens * (forward + gram))
