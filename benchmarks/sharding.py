"""What the code for meshes costs where there is one device, and what large models cost on paper.

    python -m benchmarks.sharding

The first part is measured: a pass for second moments, whose code is for meshes, on a mesh of one,
and a plain sum of the same keys, batch by batch in turn. The second part is computed, from
published peak rates and from the share of peak that the two parts of a pass reached here; see
docs/scale.md.
"""

from __future__ import annotations

import dataclasses
import functools
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from benchmarks.harness import peak_flops, report, seconds, spread
from kis_jax.core.geometry.second_moment import SecondMoment
from kis_jax.data.batches import Batch
from kis_jax.models import Decoder
from kis_jax.models.families import llama
from kis_jax.passes.convergence import Spread
from kis_jax.passes.second_moments import SecondMomentPass

BATCHES = 12
# A layer of Llama-3-8B at a quarter of its width; two of them.
CONFIG = {
    "vocab_size": 512,
    "hidden_size": 1024,
    "intermediate_size": 3584,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}


@dataclasses.dataclass(frozen=True)
class Machine:
    """Devices of one kind, from their makers' data sheets: bfloat16 products, links both ways."""

    name: str
    devices: int
    peak: float  # FLOP/s of one device
    link: float  # bytes a second into one device, from its neighbour in a ring
    memory: float  # bytes of one device


@dataclasses.dataclass(frozen=True)
class Shape:
    """What a pass over a model costs a token; logits are not computed."""

    name: str
    layers: int
    width: int
    keys: int
    heads: int
    kv_heads: int
    head_dim: int = 128

    def forward(self, length: int) -> float:
        """FLOP a token of the forward pass over texts of one length, all pairs of tokens met."""
        attention = self.width * self.head_dim * 2 * (self.heads + self.kv_heads)
        matrices = attention + 3 * self.width * self.keys
        return self.layers * (2 * matrices + 4 * length * self.heads * self.head_dim)

    def gram(self, model_axis: int) -> float:
        """FLOP a token of the second moments, over all devices of a group."""
        share = _computed_share(self.keys // model_axis)
        blocks = model_axis // 2 + share  # of the ring of each device
        return 2 * self.layers * self.keys**2 * blocks / model_axis

    def traffic(self, model_axis: int) -> float:
        """Bytes a token into each device of a group: keys around half a ring, two sums a layer."""
        keys = model_axis // 2 * self.keys / model_axis
        sums = 2 * 2 * self.width * (model_axis - 1) / model_axis
        return 2 * self.layers * (keys + sums)


MACHINES = {
    "v5e-64": Machine("TPU v5e-64", 64, 197e12, 50e9, 16e9),
    "8 H100": Machine("8 H100 SXM", 8, 989e12, 450e9, 80e9),
    "H200": Machine("one H200", 1, 989e12, 450e9, 141e9),
}
LLAMA_8B = Shape("Llama-3-8B", 32, 4096, 14336, 32, 8)
LLAMA_70B = Shape("Llama-3-70B", 80, 8192, 28672, 64, 8)
# Model, machine, devices that share a copy of the model.
RUNS = (
    (LLAMA_8B, "v5e-64", 8),
    (LLAMA_8B, "8 H100", 2),
    (LLAMA_8B, "H200", 1),
    (LLAMA_70B, "v5e-64", 64),
    (LLAMA_70B, "8 H100", 8),
    (LLAMA_70B, "H200", 1),
)
DOCUMENTS, TOKENS_A_DOCUMENT, LENGTH = 100_000, 1000, 1024


def _computed_share(width: int) -> float:
    """Which share of a Gram matrix is computed rather than mirrored; see core/products.py."""
    if width < 1024 or width % 2:
        return 1.0
    return 0.25 + 0.5 * _computed_share(width // 2)


def bytes_a_device(shape: Shape, model_axis: int) -> float:
    """What a device must hold: weights in bfloat16, two bands in float32 (core/bands.py)."""
    matrices = shape.forward(0) / 2
    band = shape.layers * shape.keys**2 / model_axis**2 * (model_axis // 2 + 1)
    return 2 * matrices / model_axis + 2 * 4 * band


def on_paper(shape: Shape, machine: Machine, model_axis: int, share: dict[str, float]) -> dict:
    """Time of a pass by the formula of docs/scale.md, nothing overlapped."""
    tokens = DOCUMENTS * TOKENS_A_DOCUMENT
    rate = machine.devices * machine.peak
    forward = tokens * shape.forward(LENGTH) / (share["forward"] * rate)
    gram = tokens * shape.gram(model_axis) / (share["gram"] * rate)
    groups = machine.devices // model_axis
    sent = tokens / groups * shape.traffic(model_axis) / machine.link
    total = forward + gram + sent
    held = bytes_a_device(shape, model_axis)
    room = "" if held < machine.memory else ", which it has not: --stream"
    return {
        "part": f"{shape.name} on {machine.name}, model axis {model_axis}: computed",
        "time": f"{total / 3600:.2g} h",
        "detail": f"forward {forward / total:.0%}, Gram {gram / total:.0%}, "
        f"links {sent / total:.0%}; {tokens / total:,.0f} tokens/s; "
        f"{held / 1e9:,.0f} GB a device{room}",
    }


def batches() -> list[Batch]:
    """Of 1,024 tokens each."""
    rng = np.random.default_rng(0)
    shape = (2, 512)
    tokens = rng.integers(0, CONFIG["vocab_size"], (BATCHES, *shape)).astype(np.int32)
    return [Batch(one, np.ones(shape, bool), (0, 1)) for one in tokens]


@functools.partial(jax.jit, donate_argnums=0)
def plain(running: SecondMoment, model: Decoder, tokens: Array, mask: Array) -> SecondMoment:
    """A batch added to the second moments of all layers, with no mesh anywhere."""
    empty = SecondMoment.zeros(model.config.mlp_width)
    _, batch = model(tokens, mask, tap=empty.update)
    return running.merge(batch)


def overhead_row(model: Decoder) -> dict:
    """The pass on one device, and the plain sum, in turn, so that others' load meets both alike."""
    layers, d = model.config.num_layers, model.config.mlp_width
    summed = jax.vmap(lambda _: SecondMoment.zeros(d))(jnp.arange(layers))
    running = SecondMomentPass(model, spread=Spread(100, np.zeros(layers)))  # sums stay for long
    durations: dict[str, list[float]] = {"mesh": [], "plain": []}
    for number, batch in enumerate([*batches(), *batches()]):
        start = time.perf_counter()
        running.add(batch)
        jax.block_until_ready(running._bands)
        middle = time.perf_counter()
        summed = plain(summed, model, batch.tokens, batch.mask)
        jax.block_until_ready(summed)
        if number >= 2:  # compiled by then
            durations["mesh"].append(middle - start)
            durations["plain"].append(time.perf_counter() - middle)
    pairs = zip(durations["mesh"], durations["plain"], strict=True)
    ratio = statistics.median(mesh / plain for mesh, plain in pairs) - 1
    return {
        "part": "a batch of the pass, one device: measured",
        "time": spread(durations["mesh"]),
        "detail": f"{ratio:+.1%} against {spread(durations['plain'])} by a plain sum",
    }


def share_rows(model: Decoder) -> tuple[list[dict], dict[str, float]]:
    """The share of the machine's peak that forward pass and Gram products reach, in float32."""
    config, batch = model.config, batches()[0]
    shape = Shape("here", config.num_layers, config.width, config.mlp_width, 8, 2)
    tokens = batch.tokens.size
    # The tap needs the keys of every layer, and is itself next to nothing.
    forward = jax.jit(lambda model, tokens: model(tokens, tap=lambda keys, _: keys.sum())[1])
    keys = jnp.asarray(np.random.default_rng(0).normal(size=(tokens, config.mlp_width)), "float32")
    gram = jax.jit(lambda keys: SecondMoment.zeros(config.mlp_width).update(keys).total)
    taken = {
        "forward": seconds(lambda: forward(model, batch.tokens)),
        "gram": seconds(lambda: gram(keys)),
    }
    flops = {
        "forward": tokens * shape.forward(batch.tokens.shape[1]),
        "gram": tokens * shape.gram(1) / shape.layers,
    }
    peak = peak_flops()
    share = {name: flops[name] / statistics.median(taken[name]) / peak for name in taken}
    rows = [
        {
            "part": f"{name}, {tokens:,} tokens, float32: measured",
            "time": spread(taken[name]),
            "detail": f"{share[name]:.0%} of the peak, {peak / 1e9:,.0f} GFLOP/s",
        }
        for name in taken
    ]
    return rows, share


def main() -> None:
    """Measures, computes, and prints one table."""
    model = Decoder(llama.read_config(CONFIG), rngs=nnx.Rngs(0))
    rows, share = share_rows(model)
    rows.insert(0, overhead_row(model))
    rows += [on_paper(shape, MACHINES[name], axis, share) for shape, name, axis in RUNS]
    report("sharding", "Meshes: overhead on one device, and large models on paper", rows)


if __name__ == "__main__":
    main()
