"""What families of decoders with mixtures of experts have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from kis_jax.models import DecoderConfig
from kis_jax.models.config import Experts
from kis_jax.models.families.family import Alternating, AsIs, Family, Weight, linear
from kis_jax.models.families.gated import LAYER, PROJECTIONS, gated_family

_MOST = 4096

# What trains a router, and what a program returns of it.
ROUTER_IGNORED = frozenset({"output_router_logits", "router_aux_loss_coef", "router_jitter_noise"})


def interleaved_experts() -> tuple[Weight, ...]:
    """The rows of experts that a file holds in one tensor, gate and what it multiplies by turns."""
    both, first = LAYER + "mlp.experts.gate_up_proj", LAYER + "mlp.experts.down_proj"
    parts = (("gate", both, Alternating(0, 2)), ("input", both, Alternating(1, 2)))
    return tuple(
        Weight(f"blocks.mlp.{target}.{kind}", source + ending, layout)
        for target, source, layout in (*parts, ("output", first, AsIs()))
        for kind, ending in (("kernel", ""), ("bias", "_bias"))
    )


def read_experts(
    count: int, chosen: int, *, renormalized: bool, router_bias: bool = False
) -> Experts:
    """The experts of a layer.

    Raises:
      ValueError: if a token is to be read by more experts than there are.
    """
    if not chosen <= count <= _MOST:
        raise ValueError(
            f"config.json: num_experts_per_tok: expected at most as many as there are experts, and "
            f"{_MOST} of these at most, found {chosen} of {count}"
        )
    return Experts(count=count, chosen=chosen, renormalized=renormalized, router_bias=router_bias)


def mixture_family(
    name: str,
    read_config: Callable[[Mapping[str, Any]], DecoderConfig],
    *,
    norms: Mapping[str, str],
    router: str = "mlp.gate",
    expert: str = "mlp.experts.{expert}.",
    matrices: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj"),
    rows: tuple[Weight, ...] = (),
) -> Family:
    """A family whose tensors are named as Llama's, but for its experts.

    Args:
      name: its `model_type`.
      read_config: its reader.
      norms: see `gated_family`.
      router: the tensor of a layer that chooses experts.
      expert: what the names of an expert's tensors begin with, in a layer.
      matrices: the gate of an expert, what it multiplies, and the second matrix.
      rows: those that the family has in place of those of single experts.
    """
    attention = (row for row in PROJECTIONS if not row.target.startswith("blocks.mlp."))
    targets = ("blocks.mlp.gate", "blocks.mlp.input", "blocks.mlp.output")
    experts = (
        row
        for target, matrix in zip(targets, matrices, strict=True)
        for row in linear(target, LAYER + expert + matrix)
    )
    return gated_family(
        name,
        read_config,
        norms=norms,
        projections=(
            *attention,
            *linear("blocks.mlp.router", LAYER + router),
            *(rows or experts),
        ),
    )
