"""What a scan holds in memory, from the shapes of a model alone; and no more than that."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import math

import jax
import jax.numpy as jnp

from kis_jax.checkpoints.mapped import Shape
from kis_jax.data.batches import (
    batch_bytes,
    device_memory,
    host_memory,
    longest_text,
    token_budget,
)
from kis_jax.models import ModelConfig

_DOCUMENT_LENGTH = 4096


@dataclasses.dataclass(frozen=True)
class ScanMemory:
    """Bytes that a scan holds at once.

    Attributes:
      dtype: of the forward pass.
      weights: the parameters in that dtype.
      second_moments: sums of all layers in float32, `layers * d * d`.
      token_budget: the most tokens run at once.
      document_length: the most tokens of a text.
      activations: of one layer for so many tokens, or for one text of that length if that is more.
      longest_text: the most tokens of a text that fits beside all else; 0 if nothing does.
      host_second_moments: the float64 sums on the host.
      device: what the device holds; on a CPU, which is its own host, all of the above.
      host: what the host holds besides.
      device_available: the device's memory.
      host_available: the machine's memory.
      fits: whether both are enough.
    """

    dtype: str
    weights: int
    second_moments: int
    token_budget: int
    document_length: int
    activations: int
    longest_text: int
    host_second_moments: int
    device: int
    host: int
    device_available: int
    host_available: int
    fits: bool


def checked_length(length: int | None, config: ModelConfig) -> int:
    """The most tokens of a text of the corpus: the context, and 4,096 unless more is asked for.

    The same on every machine, as the second moments depend on it.

    Raises:
      ValueError: if it is not positive, or longer than the context.
    """
    if length is None:
        return min(_DOCUMENT_LENGTH, config.context_length)
    if not 1 <= length <= config.context_length:
        raise ValueError(
            f"document_length: expected 1 to {config.context_length} tokens, the model's context, "
            f"found {length}"
        )
    return length


def scan_memory(
    config: ModelConfig, shapes: dict[str, Shape], dtype: str, document_length: int
) -> ScanMemory:
    """What a scan holds, from shapes alone.

    Args:
      config: of the model.
      shapes: of its parameters by their paths.
      dtype: of the forward pass.
      document_length: the most tokens of a text.
    """
    weights = sum(map(math.prod, shapes.values())) * jnp.dtype(dtype).itemsize
    squares = config.num_layers * config.experts_per_layer * config.mlp_width**2
    budget = token_budget(config)
    activations = batch_bytes(config, token_budget=budget, longest=document_length)
    rest, host = weights + 4 * squares, 8 * squares
    available, host_available = device_memory(), host_memory()
    if jax.local_devices()[0].platform == "cpu":
        rest, host = rest + host, 0
    device = rest + activations
    return ScanMemory(
        dtype=dtype,
        weights=weights,
        second_moments=4 * squares,
        token_budget=budget,
        document_length=document_length,
        activations=activations,
        longest_text=longest_text(config, available - rest),
        host_second_moments=8 * squares,
        device=device,
        host=host,
        device_available=available,
        host_available=host_available,
        fits=device <= available and host <= host_available,
    )


def return_freed_memory() -> None:
    """Gives memory that was freed back to the system, where its library has a call for that.

    glibc keeps pieces smaller than 32 MiB for later; compiling a program leaves hundreds of MB so.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):  # other systems
        ctypes.CDLL(None).malloc_trim(0)
