"""Trains `factlm` from nothing: its tokenizer, its model, and the files of both."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from kis_jax import checkpoints
from kis_jax.factlm.batches import epoch, fill_buckets, num_batches
from kis_jax.factlm.corpus import corpus_text, training_texts
from kis_jax.factlm.recall import recall
from kis_jax.factlm.records import facts_json
from kis_jax.factlm.shapes import attributes_of
from kis_jax.factlm.tokenizer import END_OF_TEXT_ID, save_tokenizer, train_tokenizer
from kis_jax.factlm.world import build_world, part_of_world
from kis_jax.models import Decoder, DecoderConfig
from kis_jax.models.families import FAMILIES

HEAD_WIDTH = 32
REFERENCE_WIDTH = 128
REFERENCE_RATE = 1.5e-3
REFERENCE_EPOCHS = 14


@dataclass(frozen=True)
class Size:
    """A shape of the model, and how long and how fast it learns."""

    width: int
    num_layers: int
    num_heads: int
    learning_rate: float
    epochs: int

    @classmethod
    def of_width(cls, width: int, num_layers: int = 6, epochs: int = REFERENCE_EPOCHS) -> "Size":
        """The size of a width, by one rule: wider models take smaller steps and fewer of them.

        Learning rate and epochs both fall as one over the square root of the width, from
        those of width 128, which is shipped. Heads are 32 wide in every size.

        Args:
          width: of the residual stream, a multiple of 32; keys are four times as wide.
          num_layers: blocks.
          epochs: passes over the texts that width 128 would take.

        Raises:
          ValueError: when the width is not a multiple of 32.

        Examples:
          >>> Size.of_width(256)
          Size(width=256, num_layers=6, num_heads=8, learning_rate=0.00106, epochs=10)
        """
        if width < HEAD_WIDTH or width % HEAD_WIDTH:
            raise ValueError(
                f"width: expected a multiple of {HEAD_WIDTH}, found {width}; take 64, 96, 128 ..."
            )
        slower = (REFERENCE_WIDTH / width) ** 0.5
        return cls(
            width=width,
            num_layers=num_layers,
            num_heads=width // HEAD_WIDTH,
            learning_rate=round(REFERENCE_RATE * slower, 5),
            epochs=round(epochs * slower),
        )


VOCAB_SIZE = 2048
CONTEXT_LENGTH = 96
TOKENS_PER_BATCH = 1024
WEIGHT_DECAY = 0.1
WARMUP_SHARE = 0.1
_BALANCE = 0.01  # weight of a mixture's uneven use of its experts


def train(
    size: Size,
    seed: int,
    out: Path,
    report: Callable[[str], None],
    num_facts: int | None = None,
    tokens_per_batch: int = TOKENS_PER_BATCH,
    experts: int | None = None,
) -> dict[str, Any]:
    """Trains a model and writes it, with its facts and corpus, as the package ships them.

    Args:
      size: the shape of the model.
      seed: of the initial parameters and the order of the texts; the world does not change.
      out: receives `facts.json`, `corpus.txt`, and in `model/` a HuggingFace directory.
      report: is told of progress, a line at a time.
      num_facts: the world is cut to the subjects of its first facts, about so many in all;
        the tokenizer is that of the whole world. All of them where it is None.
      tokens_per_batch: the fewer, the more steps an epoch has.
      experts: in place of the MLP of each layer; None for the model that is shipped. See
        `kis_jax.factlm.shapes`.

    Returns:
      The figures that are also written to `model/training.json`.
    """
    start = time.perf_counter()
    world = build_world()
    tokenizer = train_tokenizer(training_texts(world), VOCAB_SIZE)
    if num_facts is not None:
        world = part_of_world(world, num_facts)
    texts = training_texts(world)
    directory = out / "model"
    directory.mkdir(parents=True, exist_ok=True)
    (out / "facts.json").write_text(facts_json(world))
    (out / "corpus.txt").write_text(corpus_text(world))
    save_tokenizer(tokenizer, directory, CONTEXT_LENGTH)

    config = attributes_of(
        experts,
        vocab_size=VOCAB_SIZE,
        context_length=CONTEXT_LENGTH,
        width=size.width,
        num_layers=size.num_layers,
        num_heads=size.num_heads,
        end_of_text=END_OF_TEXT_ID,
    )
    shape = FAMILIES[config["model_type"]].read_config(config)
    model = _with_flat_products(Decoder(cast(DecoderConfig, shape), rngs=nnx.Rngs(seed)))
    encoded = [encoding.ids for encoding in tokenizer.encode_batch(texts)]
    model, loss = fit(model, encoded, size, seed, report, tokens_per_batch)
    checkpoints.save(model, directory, config)
    figures = {
        "seed": seed,
        "width": size.width,
        "num_layers": size.num_layers,
        "learning_rate": size.learning_rate,
        **({} if experts is None else {"experts": experts}),
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(model)),
        "facts": len(world.facts),
        "epochs": size.epochs,
        "loss": round(loss, 4),
        "recall": {
            name: round(share, 4) for name, share in recall(model, tokenizer, world).items()
        },
        "seconds": round(time.perf_counter() - start),
    }
    (directory / "training.json").write_text(json.dumps(figures, indent=2) + "\n")
    return figures


def fit(
    model: Decoder,
    texts: list[list[int]],
    size: Size,
    seed: int,
    report: Callable[[str], None],
    tokens_per_batch: int = TOKENS_PER_BATCH,
) -> tuple[Decoder, float]:
    """The model after `size.epochs` passes over the texts, and its last epoch's loss."""
    buckets = fill_buckets(texts, model.config.context_length)
    steps = size.epochs * num_batches(buckets, tokens_per_batch)
    optimizer = _optimizer(size.learning_rate, steps)
    state = optimizer.init(cast(Any, model))
    step = jax.jit(partial(_step, optimizer), donate_argnums=(0, 1))
    rng = np.random.default_rng(seed)
    start, tokens_seen, steps_done, mean = time.perf_counter(), 0, 0, float("nan")
    for number in range(1, size.epochs + 1):
        losses = []
        for tokens, lengths in epoch(buckets, tokens_per_batch, rng):
            model, state, loss = step(model, state, tokens, lengths)
            losses.append(loss)
            tokens_seen += int(lengths.sum())
        steps_done += len(losses)
        mean = float(jnp.mean(jnp.stack(losses)))
        if not np.isfinite(mean):
            raise FloatingPointError(f"loss is {mean} in epoch {number}; lower the learning rate")
        passed = time.perf_counter() - start
        left = passed / steps_done * (steps - steps_done)
        report(
            f"epoch {number}/{size.epochs}  loss {mean:.3f}  "
            f"{tokens_seen / passed:,.0f} tokens/s  {left:.0f} s left"
        )
    return model, mean


def _optimizer(learning_rate: float, steps: int) -> optax.GradientTransformation:
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, learning_rate, int(WARMUP_SHARE * steps), steps, 0.01 * learning_rate
    )
    return optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(schedule, b2=0.98, weight_decay=WEIGHT_DECAY, mask=_matrices),
    )


def _matrices(model: Decoder) -> Any:
    """Which parameters decay: the matrices, not the biases and norms."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: any(word in jax.tree_util.keystr(path) for word in ("kernel", "embedding")),
        model,
    )


def _step(
    optimizer: optax.GradientTransformation,
    model: Decoder,
    state: optax.OptState,
    tokens: jax.Array,
    lengths: jax.Array,
) -> tuple[Decoder, optax.OptState, jax.Array]:
    loss, gradient = jax.value_and_grad(_loss)(model, tokens, lengths)
    # optax takes any pytree; its types know arrays and containers of them.
    parameters = cast(Any, model)
    updates, state = optimizer.update(gradient, state, parameters)
    return cast(Decoder, optax.apply_updates(parameters, updates)), state, loss


def _loss(model: Decoder, tokens: jax.Array, lengths: jax.Array) -> jax.Array:
    """Mean cross-entropy of each next token, that of the end of the text included."""
    counted = jnp.arange(tokens.shape[1] - 1) < lengths[:, None]
    balance = 0.0
    if model.config.experts is None:
        logits = model(tokens[:, :-1])
    else:
        logits, (chosen, gates) = model(
            tokens[:, :-1], tap=lambda keys, _: (keys.experts, keys.gates)
        )
        balance = _BALANCE * _imbalance(chosen, gates, counted, count=model.config.experts.count)
    # Not a gather: the gradient of one is a scatter, which is slow on a CPU.
    hit = jnp.arange(logits.shape[-1]) == tokens[:, 1:, None]
    losses = jax.nn.logsumexp(logits, axis=-1) - jnp.sum(logits, axis=-1, where=hit)
    return jnp.mean(losses, where=counted) + balance


def _imbalance(
    experts: jax.Array, gates: jax.Array, counted: jax.Array, *, count: int
) -> jax.Array:
    """How unevenly layers route their tokens: 1 where all experts read as many, more otherwise.

    The share of choices that fall on an expert, times the share of gates that it has, summed over
    experts (Fedus et al. 2022, arXiv 2101.03961, of chosen experts alone).
    """
    there = counted[None, ..., None, None]
    hits = there & (experts[..., None] == jnp.arange(count))
    chosen = jnp.sum(hits, axis=(1, 2, 3), dtype=jnp.float32)
    weights = jnp.sum(jnp.where(hits, gates[..., None], 0.0), axis=(1, 2, 3))
    chosen, weights = (part / jnp.sum(part, axis=-1, keepdims=True) for part in (chosen, weights))
    return count * jnp.mean(jnp.sum(chosen * weights, axis=-1))


def _with_flat_products(model: Decoder) -> Decoder:
    """The model, its linear layers seeing one batch axis.

    XLA's CPU backend takes twice as long for the gradient of a product with two.
    """
    attention, mlp = model.blocks.attention, model.blocks.mlp
    for linear in (attention.query, attention.key, attention.value, attention.output):
        linear.dot_general = _flat_product
    for linear in (mlp.input, mlp.output) if model.config.experts is None else ():
        linear.dot_general = _flat_product
    return model


def _flat_product(x: jax.Array, kernel: jax.Array, *_: Any, **options: Any) -> jax.Array:
    """`x @ kernel`, as `jax.lax.dot_general` would give."""
    product = jnp.matmul(x.reshape(-1, x.shape[-1]), kernel, **options)
    return product.reshape(*x.shape[:-1], -1)
