"""A scan at GPT-2-small's shape: ours, and the procedure of the paper's program.

    python -m benchmarks.scan

Random weights, 12 layers, width 768, keys of 3,072; 128 facts: real CounterFact records with
GPT-2's own tokenizer where `../shared/data` has them, else the embedded ones.

The paper's program measures P by running the model once for each pair of facts, and twice more
for each row: 128 * 130 = 16,640 passes over single prompts at each layer, for each of four
matrices. A sample of such passes is timed here, in torch where it is installed and in jax, and
the faster of the two is extrapolated, for the one matrix P; its inverse of C is given to it.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks.harness import peak_flops, report, seconds, spread
from kis_jax import factlm
from kis_jax.checkpoints.tokenizers import load_tokenizer
from kis_jax.core.arrays.precision import HOST
from kis_jax.core.geometry.superposition import superposition
from kis_jax.core.geometry.whitening import whitener
from kis_jax.data.batches import fill_batches, token_budget
from kis_jax.data.facts import read_facts
from kis_jax.data.prompts import Prompt, tokenize_facts
from kis_jax.models import Decoder
from kis_jax.models.families import gpt2
from kis_jax.passes.keys import fact_keys
from kis_jax.passes.second_moments import SecondMomentPass

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
SAMPLE = 48  # single passes timed for the paper's procedure
PASSES_A_LAYER = 128 * 130
TEXTS = 64  # of the context's length, for the second moments


def facts() -> tuple[list[Prompt], str]:
    """Prompts of 128 facts, and whose they are."""
    if SHARED.is_dir():
        tokenizer, path, name = SHARED / "gpt2-tokenizer", SHARED / "counterfact_known.json", "real"
    else:
        tokenizer, path, name = factlm.model_directory(), factlm.facts_path(), "embedded"
    loaded = load_tokenizer(tokenizer)
    assert loaded is not None
    return tokenize_facts(read_facts(path, 128), loaded, context_length=1024), name


def torch_single_passes(prompts: list[Prompt]) -> list[float] | None:
    """Durations of torch's passes over single prompts; None where torch is not installed."""
    try:
        import torch  # pyright: ignore[reportMissingImports]
        from transformers import GPT2Config, GPT2Model
    except ImportError:
        return None
    model = GPT2Model(GPT2Config()).eval()
    durations = []
    with torch.inference_mode():
        for prompt in (*prompts[:3], *prompts[:SAMPLE]):
            start = time.perf_counter()
            model(torch.tensor([prompt.tokens]))
            durations.append(time.perf_counter() - start)
    return durations[3:]


def jax_single_passes(model: Decoder, prompts: list[Prompt]) -> list[float]:
    """Durations of compiled passes over single prompts, one shape for all."""
    length = max(len(prompt.tokens) for prompt in prompts)
    one = jax.jit(lambda model, tokens: model(tokens, tap=lambda keys, mask: keys[:, -1])[1])
    durations = []
    for prompt in (*prompts[:3], *prompts[:SAMPLE]):
        tokens = np.array([prompt.tokens + [0] * (length - len(prompt.tokens))], np.int32)
        start = time.perf_counter()
        one(model, tokens).block_until_ready()
        durations.append(time.perf_counter() - start)
    return durations[3:]


def superposition_rows(model: Decoder) -> list[dict]:
    """P at all layers: ours, from weights in memory and given C, against the paper's passes."""
    prompts, whose = facts()
    config = model.config
    rng = np.random.default_rng(0)
    sample = rng.normal(size=(2 * config.mlp_width, config.mlp_width))
    with HOST.active():
        second_moment = jnp.asarray(sample.T @ sample / len(sample))

        given = whitener(second_moment)
    layer = jax.jit(superposition)

    def ours(factor: bool):
        keys = fact_keys(model, prompts, token_budget=token_budget(config))
        with HOST.active():
            return [
                layer(
                    jnp.asarray(layer_keys, jnp.float64),
                    whitener(second_moment) if factor else given,
                )
                for layer_keys in keys
            ]

    mine, with_factors = seconds(lambda: ours(False)), seconds(lambda: ours(True))
    candidates = {"jax, compiled": jax_single_passes(model, prompts)}
    if (found := torch_single_passes(prompts)) is not None:
        candidates["torch"] = found
    peer = min(candidates, key=lambda name: statistics.median(candidates[name]))
    total = statistics.median(candidates[peer]) * PASSES_A_LAYER * config.num_layers
    return [
        {
            "part": f"P of 128 {whose} facts at all layers, whiteners given",
            "time": spread(mine),
            "ratio": f"{total / statistics.median(mine):,.0f} times faster",
        },
        {
            "part": "the same, and C of every layer factored in float64",
            "time": spread(with_factors),
            "ratio": f"{total / statistics.median(with_factors):,.0f} times faster",
        },
        *(
            {"part": f"one pass over one prompt, {name}", "time": spread(d), "ratio": ""}
            for name, d in candidates.items()
        ),
        {
            "part": f"the paper's P at all layers, extrapolated from {SAMPLE} passes ({peer})",
            "time": f"{total:,.0f} s",
            "ratio": "1",
        },
    ]


def needed_flops(model: Decoder, tokens: int, length: int) -> float:
    """What a pass for second moments must compute over texts of one length.

    A forward pass without the head: the projections, causal attention (half a square), two flops
    for each multiplication and addition. Gram products: one triangle of a symmetric matrix.
    """
    c = model.config
    projections = 2 * (4 * c.width**2 + 2 * c.width * c.mlp_width)
    attention = 2 * 2 * c.width * length / 2
    gram = c.mlp_width * (c.mlp_width + 1)
    return c.num_layers * (projections + attention + gram) * tokens


def second_moment_rows(model: Decoder) -> list[dict]:
    """The pass for second moments of all layers, against the peak measured before and after."""
    length = 512
    rng = np.random.default_rng(0)
    texts = [rng.integers(0, 50257, length).tolist() for _ in range(TEXTS)]
    budget = token_budget(model.config)

    def run():
        running = SecondMomentPass(model)
        for batch in fill_batches(texts, model.config, token_budget=budget):
            running.add(batch)
        return running.result().total

    before = peak_flops()
    durations = seconds(run, repeats=3)
    peak = max(before, peak_flops())
    rate = needed_flops(model, TEXTS * length, length) / statistics.median(durations)
    return [
        {
            "part": f"second moments of all layers over {TEXTS * length:,} tokens",
            "time": spread(durations),
            "ratio": f"{TEXTS * length / statistics.median(durations):,.0f} tokens/s",
        },
        {
            "part": "needed operations a second",
            "time": f"{rate / 1e9:,.0f} GFLOP/s",
            "ratio": f"{rate / peak:.0%} of the peak, {peak / 1e9:,.0f} GFLOP/s",
        },
    ]


def main() -> None:
    """Measures both and prints one table."""
    model = Decoder(gpt2.read_config({}), rngs=nnx.Rngs(0))
    rows = [*superposition_rows(model), *second_moment_rows(model)]
    report("scan", "A scan at GPT-2-small's shape, random weights, float32", rows)


if __name__ == "__main__":
    main()
