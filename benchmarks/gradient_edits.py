"""Edits without a search, in edits a second, beside what the machine's arithmetic allows.

python -m benchmarks.gradient_edits --model DIR --facts world
"""

from __future__ import annotations

import argparse
import dataclasses
import time

import jax
import jax.numpy as jnp
import numpy as np

import kis_jax as kis
from kis_jax.data.continuations import tokenize_continuations
from kis_jax.edit.gradients import BLOCK, along, counted, first_state, typical
from kis_jax.models import Decoder, DecoderConfig
from kis_jax.models.memory import edited
from kis_jax.passes.targets.gradients import target_gradients
from kis_jax.passes.targets.settings import edit_settings


def peak(size: int = 2048, times: int = 4) -> float:
    """Multiplications and additions a second of a float32 product, the best of some."""
    a = jnp.ones((size, size))
    product = jax.jit(lambda a: jnp.matmul(a, a, precision="highest"))
    product(a).block_until_ready()
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        product(a).block_until_ready()
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds)


def operations(config: DecoderConfig, lengths: list[int], targets: list[int], layer: int) -> float:
    """Of one fact: forward through all layers, back to one, and the head at the targets."""
    width, hidden, heads = config.width, config.mlp_width, config.num_heads * config.head_dim
    keys = config.num_kv_heads * config.head_dim
    block = 2 * (2 * width * heads + 2 * width * keys + 3 * width * hidden)
    tokens = float(np.mean(lengths))
    layers = config.num_layers + (config.num_layers - layer)
    head = 2 * 2 * width * config.vocab_size * float(np.mean(targets))
    return layers * block * tokens + head


def main() -> None:
    """Prints edits a second in wall and processor time, and the bound."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="factlm")
    parser.add_argument("--facts", default="factlm")
    parser.add_argument("--num-facts", type=int, default=100)
    parser.add_argument("--layer", type=int)
    asked = parser.parse_args()
    model, tokenizer = kis.load(asked.model)
    assert isinstance(model, Decoder) and tokenizer is not None
    settings, config = edit_settings(model.config), model.config
    layer = settings.layer if asked.layer is None else asked.layer
    facts = [
        dataclasses.replace(fact, target_new=fact.target_new or fact.target_true)
        for fact in kis.read_facts(asked.facts, asked.num_facts)
    ]
    texts = tokenize_continuations(
        [fact.text for fact in facts],
        [fact.target_new for fact in facts],
        tokenizer,
        context_length=config.context_length,
    )
    state = first_state(model, layer, whitened=False)
    for run in ("compiling", "timed"):
        now, size, stage = model, 0.0, {"gradients": 0.0, "update": 0.0}
        wall, processor = time.perf_counter(), time.process_time()
        for start in range(0, len(facts), BLOCK):
            before = time.perf_counter()
            found = target_gradients(now, tokenizer, facts[start : start + BLOCK], layers=[layer])
            middle = time.perf_counter()
            state = counted(state, found, layer)
            size = size or typical(model, layer, found)
            now = edited(now, {layer: along(state, found, layer, settings, size)})
            jax.block_until_ready(now.blocks.mlp.output.kernel[...])
            stage["gradients"] += middle - before
            stage["update"] += time.perf_counter() - middle
        wall, processor = time.perf_counter() - wall, time.process_time() - processor
        print(
            f"{run}: {len(facts) / wall:.1f} edits/s of wall time, {len(facts) / processor:.1f} of "
            f"processor time; gradients {stage['gradients']:.1f} s, update {stage['update']:.1f} s"
        )
    best = peak()
    lengths = [len(text.tokens) for text in texts]
    targets = [len(text.tokens) - text.start for text in texts]
    needed = operations(config, lengths, targets, layer)
    print(
        f"layer {layer} of {config.num_layers}; {np.mean(lengths):.1f} tokens a fact; "
        f"{needed / 1e9:.2f} GFLOP a fact; peak {best / 1e9:.0f} GFLOP/s here and now: at most "
        f"{best / needed:.1f} edits/s"
    )


if __name__ == "__main__":
    main()
