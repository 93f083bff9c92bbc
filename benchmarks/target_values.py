"""Target values at GPT-2-small's shape: many facts at once, one at a time, and a torch loop.

    python -m benchmarks.target_values

Random weights; 64 real CounterFact records with GPT-2's own tokenizer where `../shared/data` has
them, else the embedded ones; MEMIT's 6 prefixes, none and five of 11 random words; the layer that
`edit_settings` has for this shape; 10 looks at the loss and 9 updates for everybody, no early
stop. Programs are compiled beforehand.

One at a time: the procedure of the literature in jax, compiled: at each step the whole model on
the whole texts of one fact, padded to the longest of them, logits at every place. Torch: ROME's
loop as one would write it with care, with frozen parameters, a hook that adds the shift,
`torch.optim.Adam`, the texts padded likewise; once with logits at every place, as the published
programs have them, once where they are needed alone. All are timed on some of the facts, chosen
evenly over all, and extrapolated.
"""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from benchmarks.harness import optional, peak_flops, report, seconds, spread
from benchmarks.scan import SHARED
from kis_jax import factlm
from kis_jax.checkpoints.tokenizers import load_tokenizer
from kis_jax.data.facts import Fact, read_facts
from kis_jax.data.rewrites import Placed, Rewrite, tokenize_rewrites
from kis_jax.models import Decoder, Shift
from kis_jax.models.families import gpt2
from kis_jax.passes.targets.rows import row_batches, step_budget
from kis_jax.passes.targets.settings import TargetSettings, edit_settings
from kis_jax.passes.targets.values import target_values

FACTS = 64
SAMPLE = 4  # facts timed one at a time
SETTINGS = TargetSettings(
    steps=10, learning_rate=0.5, clamp=4, weight_decay=0.5, stop_below=float("-inf")
)


def inputs() -> tuple[list[Fact], Any, tuple[str, ...], str]:
    """Facts, their tokenizer, prefixes of random words, and whose they are."""
    if SHARED.is_dir():
        path, facts, whose = SHARED / "gpt2-tokenizer", SHARED / "counterfact_known.json", "real"
    else:
        path, facts, whose = factlm.model_directory(), factlm.facts_path(), "embedded"
    tokenizer = load_tokenizer(path)
    assert tokenizer is not None
    rng = np.random.default_rng(0)
    words = [f" {word}" for word in "the of and to in a is that for it was on are as with".split()]
    texts = ["".join(rng.choice(words, 11)).strip() for _ in range(5)]
    return read_facts(facts, FACTS), tokenizer, ("", *texts), whose


def texts_of(rewrite: Rewrite) -> list[Placed]:
    """All texts of a fact, its essence last."""
    return [text for text in rewrite.texts if text is not None] + [rewrite.essence]


def whole_tokens(text: Placed) -> list[int]:
    """What the model is given: all but a target's last token."""
    return text.tokens[:-1] if text.start < len(text.tokens) else text.tokens


def arrays(rewrite: Rewrite) -> dict[str, np.ndarray]:
    """A fact's texts in one array padded on the right, and what is predicted in them."""
    texts = texts_of(rewrite)
    length = max(len(whole_tokens(text)) for text in texts)
    tokens = np.zeros((len(texts), length), np.int32)
    targets = np.zeros((len(texts) - 1, length), np.int32)
    counted = np.zeros((len(texts) - 1, length), bool)
    for row, text in enumerate(texts):
        given = whole_tokens(text)
        tokens[row, : len(given)] = given
        if row < len(texts) - 1:
            here = slice(text.start - 1, len(text.tokens) - 1)
            targets[row, here] = text.tokens[text.start :]
            counted[row, here] = True
    return {
        "tokens": tokens,
        "subjects": np.array([text.index for text in texts], np.int32),
        "targets": targets,
        "counted": counted,
        "last": np.array(len(texts[-1].tokens) - 1, np.int32),
    }


@functools.partial(jax.jit, static_argnames="layer")
def one_at_a_time(model: Decoder, fact: dict[str, jax.Array], *, layer: int) -> jax.Array:
    """The shift of one fact, by the whole model on whole texts at each step."""
    where = jnp.arange(fact["tokens"].shape[1]) == fact["subjects"][:, None]
    rows = jnp.arange(len(where))

    def log_p(vector: jax.Array) -> jax.Array:
        vectors = jnp.broadcast_to(vector, (len(where), len(vector)))
        shift = Shift(jnp.array(layer), vectors, where)
        return jax.nn.log_softmax(model(fact["tokens"], shift=shift))

    zero = jnp.zeros(model.config.width)
    before = log_p(zero)[-1, fact["last"]]
    mask = jnp.ones(fact["tokens"].shape, bool)
    _, values = model.run(
        model.embed(fact["tokens"], mask), mask, watch=lambda g: g.values[rows, fact["subjects"]]
    )
    norm = jnp.linalg.norm(values[layer, 0])

    def loss(vector: jax.Array) -> jax.Array:
        said = log_p(vector)
        target = jnp.take_along_axis(said[:-1], fact["targets"][..., None], axis=2)[..., 0]
        likely = jnp.mean(jnp.mean(target, axis=1, where=fact["counted"]))
        after = said[-1, fact["last"]]
        drift = jnp.sum(jnp.exp(after) * (after - before))
        decay = SETTINGS.weight_decay * jnp.sum(vector**2) / norm**2
        return -likely + SETTINGS.kl_weight * drift + decay

    adam = optax.adam(SETTINGS.learning_rate)

    def step(_: int, now: tuple[jax.Array, Any]) -> tuple[jax.Array, Any]:
        change, state = adam.update(jax.grad(loss)(now[0]), now[1])
        vector = jnp.asarray(optax.apply_updates(now[0], change))
        longest = SETTINGS.clamp * norm / jnp.maximum(jnp.linalg.norm(vector), 1e-30)
        return vector * jnp.minimum(1, longest), state

    vector, _ = jax.lax.fori_loop(0, SETTINGS.steps - 1, step, (zero, adam.init(zero)))
    return vector + 0 * loss(vector)  # the last look, which every procedure takes


def torch_model(model: Decoder) -> Any:
    """The same model in torch; None where torch is not installed."""
    torch = optional("torch")
    if torch is None:
        return None
    from transformers import GPT2Config, GPT2LMHeadModel

    theirs: Any = GPT2LMHeadModel(GPT2Config()).eval().requires_grad_(False)
    names = {
        "ln_1": model.blocks.attention_norm,
        "ln_2": model.blocks.mlp_norm,
        "attn.c_proj": model.blocks.attention.output,
        "mlp.c_fc": model.blocks.mlp.input,
        "mlp.c_proj": model.blocks.mlp.output,
    }
    with torch.no_grad():
        for index, block in enumerate(theirs.transformer.h):
            for name, ours in names.items():
                module = block.get_submodule(name)
                weight = ours.scale if name.startswith("ln") else ours.kernel
                module.weight.copy_(torch.tensor(np.asarray(weight[...][index])))
                module.bias.copy_(torch.tensor(np.asarray(ours.bias[...][index])))
            three = [getattr(model.blocks.attention, part) for part in ("query", "key", "value")]
            kernel = np.concatenate([np.asarray(p.kernel[...][index]) for p in three], axis=1)
            block.attn.c_attn.weight.copy_(torch.tensor(kernel))
            bias = np.concatenate([np.asarray(p.bias[...][index]) for p in three])
            block.attn.c_attn.bias.copy_(torch.tensor(bias))
        theirs.transformer.wte.weight.copy_(torch.tensor(np.asarray(model.embedding.embedding)))
        theirs.transformer.wpe.weight.copy_(torch.tensor(np.asarray(model.positions.embedding)))
    return theirs


def torch_loop(model: Any, rewrite: Rewrite, layer: int, *, all_logits: bool) -> np.ndarray:
    """The shift of one fact, by ROME's loop in torch."""
    import torch  # pyright: ignore[reportMissingImports]

    texts = texts_of(rewrite)
    fact: dict[str, Any] = {name: torch.tensor(value) for name, value in arrays(rewrite).items()}
    rows = torch.arange(len(texts))
    vector = torch.zeros(model.config.n_embd, requires_grad=True)
    first: list[Any] = []

    def add(module: Any, given: Any, output: Any) -> Any:
        if not first:
            first.append(output[0, fact["subjects"][0]].norm())
        output = output.clone()
        output[rows, fact["subjects"]] += vector
        return output

    fact["counted_at"] = fact["counted"].nonzero(as_tuple=True)
    picked = fact["targets"][fact["counted_at"]].long()[:, None]
    number = fact["counted"].sum(dim=1)

    def look() -> tuple[Any, Any]:
        if all_logits:
            log_p = model(input_ids=fact["tokens"].long()).logits.log_softmax(dim=-1)
            return log_p[:-1][fact["counted_at"]], log_p[-1, fact["last"]]
        hidden = model.transformer(input_ids=fact["tokens"].long()).last_hidden_state
        said = model.lm_head(hidden[:-1][fact["counted_at"]]).log_softmax(dim=-1)
        return said, model.lm_head(hidden[-1, fact["last"]]).log_softmax(dim=-1)

    handle = model.transformer.h[layer].mlp.register_forward_hook(add)
    adam = torch.optim.Adam([vector], lr=SETTINGS.learning_rate)
    before = None
    for step in range(SETTINGS.steps):
        adam.zero_grad()
        said, after = look()
        before = after.detach() if before is None else before
        target = said.gather(1, picked)[:, 0]
        likely = (target / number[fact["counted_at"][0]]).sum() / (len(texts) - 1)
        drift = (after.exp() * (after - before)).sum()
        decay = SETTINGS.weight_decay * (vector**2).sum() / first[0] ** 2
        loss = -likely + SETTINGS.kl_weight * drift + decay
        if step == SETTINGS.steps - 1:
            break
        loss.backward()
        adam.step()
        with torch.no_grad():
            longest = SETTINGS.clamp * first[0]
            if vector.norm() > longest:
                vector *= longest / vector.norm()
    handle.remove()
    return vector.detach().numpy()


def sampled(run: Callable[[Rewrite], Any], rewrites: Sequence[Rewrite]) -> list[float]:
    """Durations of each fact's descent, each after one that is not counted."""
    durations = []
    for rewrite in rewrites:
        run(rewrite)
        start = time.perf_counter()
        jax.block_until_ready(run(rewrite))
        durations.append(time.perf_counter() - start)
    return durations


def flops(model: Decoder, rewrites: Sequence[Rewrite], layer: int) -> tuple[float, float]:
    """What the descents need, and what whole texts and the whole model at each step take.

    Two for each multiplication and addition of the projections and the head; a gradient costs as
    much as the forward pass, as parameters need none. Attention's own products are left out: a
    hundredth. Padding is not counted.
    """
    c = model.config
    block = 2 * (4 * c.width**2 + 2 * c.width * c.mlp_width)
    head = 2 * c.width * c.vocab_size
    looks, updates, above = SETTINGS.steps, SETTINGS.steps - 1, c.num_layers - layer - 1
    needed = whole = 0.0
    for rewrite in rewrites:
        for text in texts_of(rewrite):
            length = len(whole_tokens(text))
            suffix = length - text.index
            said = max(1, len(text.tokens) - text.start)
            needed += c.num_layers * block * length
            needed += (looks + updates) * (above * block * suffix + head * said)
            whole += (looks + updates) * length * (c.num_layers * block + head)
    return needed, whole


def main() -> None:
    """Measures all and prints one table."""
    config = gpt2.read_config({})
    model = Decoder(config, rngs=nnx.Rngs(0))
    facts, tokenizer, prefixes, whose = inputs()
    layer = edit_settings(config).layer
    rewrites = tokenize_rewrites(facts, prefixes, tokenizer, context_length=1024)
    sample = rewrites[:: FACTS // SAMPLE]
    whole = lambda rewrite: one_at_a_time(model, arrays(rewrite), layer=layer)  # noqa: E731
    baselines = {"one at a time, jax": sampled(whole, sample)}
    theirs = torch_model(model)
    if theirs is not None:
        for name, every in (("all logits", True), ("needed logits", False)):
            loop = functools.partial(torch_loop, theirs, layer=layer, all_logits=every)
            baselines[f"one at a time, torch, {name}"] = sampled(loop, sample)
    found: list[Any] = []

    def ours() -> None:
        found[:] = [
            target_values(
                *(model, tokenizer, facts), layer=layer, settings=SETTINGS, prefixes=prefixes
            )
        ]

    before = peak_flops()
    durations = seconds(ours, repeats=2)
    peak = max(before, peak_flops())
    mine = statistics.median(durations)
    needed, taken = flops(model, rewrites, layer)
    shifts = (found[0].values - found[0].initial)[:: FACTS // SAMPLE]
    batches = list(
        row_batches(
            *(rewrites, config), layer=layer, budget=step_budget(config), steps=SETTINGS.steps
        )
    )
    rows = [
        {
            "procedure": f"{FACTS} {whose} facts at once, layer {layer}, {len(batches)} batches",
            "time for all": spread(durations),
            "ratio": "1",
            "of peak": f"{needed / mine / peak:.0%} of {peak / 1e9:,.0f} GFLOP/s",
            "same values": "",
        }
    ]
    for name, each in baselines.items():
        total = sum(each) * FACTS / len(each)
        run = (
            whole
            if "jax" in name
            else functools.partial(torch_loop, theirs, layer=layer, all_logits="all" in name)
        )
        other = np.asarray(run(sample[0]))
        gap = np.linalg.norm(other - shifts[0]) / np.linalg.norm(other)
        rows.append(
            {
                "procedure": f"{name}, extrapolated from {SAMPLE} facts",
                "time for all": f"{total:.3g} s ({FACTS} x {min(each):.2g} to {max(each):.2g})",
                "ratio": f"{total / mine:.1f} times slower",
                "of peak": f"{taken / total / peak:.0%}" if "torch" not in name else "",
                "same values": f"to {gap:.1e}",
            }
        )
    report("target_values", "Target values at GPT-2-small's shape, random weights, float32", rows)


if __name__ == "__main__":
    main()
