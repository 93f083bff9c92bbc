"""What a streamed pass holds in memory and on disk, and how much of a corpus it takes at once."""

from __future__ import annotations

import dataclasses
import re
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp

from kis_jax.core.arrays.packed import packed_size
from kis_jax.data.batches import batch_bytes, device_memory
from kis_jax.models import ModelConfig

# What the process itself holds on a CPU: Python, jax, the tokenizer, compiled programs, and what
# the allocator has not given back. Measured at some 700 MiB.
_PROGRAM = 800 * 2**20
_SHARE_OF_MEMORY = 0.75  # where no --memory is given
_MOST_TOKENS, _LEAST_TOKENS = 4096, 64  # of a batch; products are slow with fewer
_MOST_CHUNK = 65_536  # beyond, reading weights is long hidden, and a killed run loses more
_UNITS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}


@dataclasses.dataclass(frozen=True)
class StreamPlan:
    """How a model is streamed, and what that takes.

    Attributes:
      token_budget: the most tokens run at once.
      chunk_tokens: the most tokens for which all layers are read once, padding included.
      num_layers: of the model.
      layer: bytes of one layer in the dtype of the forward pass.
      weights: held at once: a layer, and the next one.
      sums: of one layer, on the device and on their way to disk.
      activations: of one batch, in one layer.
      stream: the residual stream of a chunk, and its rows of the embedding.
      program: of the process itself, where device and host share their memory.
      memory: all of these.
      available: what was allowed.
      disk: the second moments of all layers, and one more while it is replaced.
    """

    token_budget: int
    chunk_tokens: int
    num_layers: int
    layer: int
    weights: int
    sums: int
    activations: int
    stream: int
    program: int
    memory: int
    available: int
    disk: int


def plan_stream(
    config: ModelConfig,
    *,
    layer_size: int,
    dtype: str,
    document_length: int,
    memory: int | None = None,
) -> StreamPlan:
    """The largest batches and chunks that fit.

    The more tokens in a chunk, the less often weights and sums pass between disk and memory: a
    layer is computed for the whole chunk while the next one is read.

    Args:
      config: of the model.
      layer_size: numbers in a layer.
      dtype: of the forward pass.
      document_length: the most tokens of a text.
      memory: bytes; if None, three quarters of the first device's, or of the machine's.

    Raises:
      ValueError: if not even the smallest batch fits, naming how much memory would do.
    """
    item = jnp.dtype(dtype).itemsize
    available = int(_SHARE_OF_MEMORY * device_memory()) if memory is None else memory
    program = _PROGRAM if jax.local_devices()[0].platform == "cpu" else 0
    weights, sums = 2 * layer_size * item, 4 * 4 * packed_size(config.mlp_width)
    token = 2 * config.width * item  # its stream, and a row of the embedding if it has one alone

    def held(budget: int) -> int:
        return batch_bytes(config, token_budget=budget, longest=document_length)

    fixed = program + weights + sums
    budget = _MOST_TOKENS
    # A long text is run whole: a budget that holds no more than it does costs nothing.
    share = max((available - fixed) // 2, held(_LEAST_TOKENS))
    while budget > _LEAST_TOKENS and held(budget) > share:
        budget //= 2
    needed = fixed + held(budget) + max(budget, document_length) * token
    if needed > available:
        raise ValueError(
            f"memory: expected at least {-(-needed // 10**6):,} MB, which a layer of this model "
            f"and the next, its second moment and a text of {document_length} tokens take, found "
            f"{available // 10**6:,} MB; pass more, or cut texts with --document-length"
        )
    room = available - fixed - held(budget)
    chunk = max(budget, document_length, min(_MOST_CHUNK, room // token))
    return StreamPlan(
        token_budget=budget,
        chunk_tokens=chunk,
        num_layers=config.num_layers,
        layer=layer_size * item,
        weights=weights,
        sums=sums,
        activations=held(budget),
        stream=chunk * token,
        program=program,
        memory=fixed + held(budget) + chunk * token,
        available=available,
        disk=(config.num_layers + 1) * 8 * packed_size(config.mlp_width),
    )


def check_disk(plan: StreamPlan, directory: Path) -> None:
    """Raises ValueError if the second moments do not fit the disk."""
    place = next(parent for parent in (directory, *directory.absolute().parents) if parent.exists())
    if (free := shutil.disk_usage(place).free) < plan.disk:
        raise ValueError(
            f"{directory}: expected {plan.disk / 10**9:,.1f} GB of free disk for the second "
            f"moments of {plan.num_layers} layers, found {free / 10**9:,.1f} GB; choose another "
            "output folder"
        )


def parse_bytes(text: str) -> int:
    """A number of bytes, such as "3GB", "2.5 GiB" or "800M".

    Raises:
      ValueError: if it is of no such form, or not positive.

    Examples:
      >>> parse_bytes("3GB"), parse_bytes("1.5GiB")
      (3000000000, 1610612736)
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?\s*", text, re.IGNORECASE)
    if found is None or float(found[1]) == 0:
        raise ValueError(
            f"memory: expected a number of bytes such as 3GB or 2.5GiB, found {text!r}"
        )
    base = 1024 if found[3] else 1000
    return int(float(found[1]) * base ** _UNITS[found[2].upper()])
