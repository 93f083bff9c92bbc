"""The descent to target values, for a batch of facts at once, over the upper layers alone.

What stands before a subject's last token is not changed by a shift there, as attention is causal,
nor is the stream below the edited layer. One pass over the whole texts, their common openings run
once, keeps what the rest needs of both; each step then runs the layers above the edited one, on
the tokens from the subject's last one on, and makes logits only where a token of the target, or of
the essence, is predicted.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from kis_jax.core.arrays.products import lengths
from kis_jax.models import Decoder, Past
from kis_jax.models.memory import memory_rows
from kis_jax.models.scanning import Glimpse
from kis_jax.passes.targets.rows import Extent, Rows
from kis_jax.passes.targets.settings import Convention, TargetSettings

# The numbers of `TargetSettings` that the descent goes by, by name.
Numbers = dict[str, Any]
_NUMBERS = (
    *("steps", "learning_rate", "clamp", "weight_decay", "kl_weight", "stop_below", "stop_at"),
)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Ready:
    """What one pass over the texts of a batch keeps; r = f (p + 1) texts.

    Attributes:
      stream: after the edited layer, from the subject's last token on, `(r, s, width)`.
      rest: at that token, the stream to which the edited layer's MLP adds, `(r, width)`.
      values: at that token, what its second matrix writes, `(r, width)`.
      keys: at that token, `(f, p + 1, d)`.
      past: of all layers, of the tokens before.
      mask: of the past's tokens and of those from the subject's last one on, `(r, q + s)` bool.
      essence: log-probabilities of the token after the essence, before any shift, `(f, v)`.
    """

    stream: Array
    rest: Array
    values: Array
    keys: Array
    past: Past
    mask: Array
    essence: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Descent:
    """Where facts are in their descent.

    Attributes:
      shift: `(f, m)` float32.
      before: that of the last look, likewise.
      said: how likely the target was then, `(f,)`: bare or on the average, whichever is less.
      losses: at the last look, `(f,)`.
      probabilities: of the target, its tokens' geometric mean, averaged over the texts, `(f,)`.
      steps: updates made, `(f,)` int.
      active: whether it goes on, `(f,)` bool.
      adam: state of the optimiser.
      step: how many times the losses have been looked at, `()` int.
      marks: its shift when its target first was likelier than each of some levels, `(l, f, m)`; the
        shift of the moment for those that it has not reached.
      marked: whether it has reached them, `(l, f)` bool.
    """

    shift: Array
    before: Array
    said: Array
    losses: Array
    probabilities: Array
    steps: Array
    active: Array
    adam: optax.OptState
    step: Array
    marks: Array
    marked: Array


@functools.partial(jax.jit, static_argnames="extent")
def prepare(model: Decoder, rows: Rows, layer: Array | int, *, extent: Extent) -> Ready:
    """One pass over whole texts; see `Ready`. Compiled once, whatever the layer."""
    texts = jax.tree.map(_flat, (rows.tokens, rows.lengths, rows.subjects))
    tokens, lengths, subjects = texts
    every = jnp.arange(len(tokens))
    before, opened = _opened(model, rows)
    earlier = opened.shape[1]
    mask = jnp.concat([opened, jnp.arange(tokens.shape[1]) < lengths[:, None]], axis=1)
    place = jnp.arange(extent.suffix)
    inside = jnp.minimum(subjects[:, None] + place, tokens.shape[1] - 1)

    def watch(g: Glimpse) -> Any:
        after = (part[every[:, None], inside] for part in (g.rest, g.values))
        return *after, g.keys[every, subjects], jax.tree.map(lambda p: p[:, : extent.past], g.past)

    top, (rests, written, keys, past) = model.run(
        model.embed(tokens, mask), mask, past=before, watch=watch
    )
    if before is not None:
        past = jax.tree.map(lambda *parts: jnp.concat(parts, axis=2), before, past)
    rest, values = rests[layer], written[layer]
    last = top[every, lengths - 1].reshape(*rows.lengths.shape, -1)[:, -1]
    return Ready(
        stream=_block(model, layer).write(rest, values).astype(top.dtype),
        rest=rest[:, 0],
        values=values[:, 0],
        keys=memory_rows(keys[layer], model.config)
        .astype(jnp.float32)
        .reshape(*rows.lengths.shape, -1),
        past=past,
        mask=jnp.concat(
            [
                opened,
                jnp.arange(past.keys.shape[2] - earlier) < subjects[:, None],
                place < (lengths - subjects)[:, None],
            ],
            axis=1,
        ),
        essence=jax.nn.log_softmax(model.finish(last)),
    )


def _opened(model: Decoder, rows: Rows) -> tuple[Past | None, Array]:
    """Attention's past of the openings at all layers, run once for all facts, and its mask.

    The past is None if there are none; the mask is `(r, o)`.
    """
    f, texts = rows.lengths.shape
    mask = jnp.arange(rows.opening.shape[1]) < rows.opening_lengths[:, None]
    past = None
    if mask.shape[1]:
        x = model.embed(jnp.asarray(rows.opening), mask)
        _, past = model.run(x, mask, watch=lambda glimpse: glimpse.past)
        past = jax.tree.map(lambda part: jnp.tile(part, (1, f, 1, 1, 1)), past)
    return past, jnp.tile(mask, (f, 1))


def _block(model: Decoder, layer: Array | int) -> Any:
    return jax.tree.map(lambda stacked: stacked[layer], model.blocks)


def losses(
    shift: Array,
    model: Decoder,
    rows: Rows,
    ready: Ready,
    norms: Array,
    numbers: Numbers,
    *,
    layer: Array | int,
    convention: Convention = "own",
) -> tuple[Array, tuple[Array, Array]]:
    """The loss of each fact at its shift, and the probabilities of its target.

    Returns:
      The losses, `(f,)`; then the probability averaged over the texts, and that after the bare
      prompt, each `(f,)`.
    """
    f, texts = rows.lengths.shape
    added = jnp.repeat(shift, texts, axis=0).astype(ready.values.dtype)
    moved = _block(model, layer).write(ready.rest, ready.values + added)
    x = ready.stream.at[:, 0].set(moved.astype(ready.stream.dtype))
    upper = (jnp.asarray(layer) + 1, jnp.asarray(model.config.num_layers))
    x, _ = model.run(x, ready.mask, between=upper, past=ready.past)
    x = x.reshape(f, texts, *x.shape[1:])

    before = (rows.starts - rows.subjects[:, :-1] - 1)[..., None] + jnp.arange(
        rows.targets.shape[2]
    )
    before = jnp.minimum(before, x.shape[2] - 1)
    end = (rows.lengths - rows.subjects)[:, -1] - 1
    predicting = jnp.take_along_axis(x[:, :-1], before[..., None], axis=2)
    predicting = predicting.reshape(f, -1, x.shape[-1])
    logits = _finish(model, jnp.concat([predicting, x[jnp.arange(f), -1, end][:, None]], axis=1))
    log_sums = jax.nn.logsumexp(logits, axis=-1)
    chosen = jnp.take_along_axis(logits[:, :-1], rows.targets.reshape(f, -1, 1), axis=-1)[..., 0]
    log_p = (chosen - log_sums[:, :-1]).reshape(rows.targets.shape)
    log_p = jnp.where(rows.counted, log_p, 0)
    mean_log_p = jnp.sum(log_p, axis=-1) / jnp.sum(rows.counted, axis=-1, dtype=jnp.float32)

    after = logits[:, -1] - log_sums[:, -1:]
    drift = jnp.sum(jnp.exp(after) * (after - ready.essence), axis=-1)
    squares = jnp.sum(shift**2, axis=-1)
    if convention != "own":  # the authors' programs take the length of the shift itself
        there = squares > 0
        squares = jnp.where(there, jnp.sqrt(jnp.where(there, squares, 1)), 0)
    # Texts that were left out have weight 0 and the numbers of the bare prompt: finite ones.
    loss = (
        -jnp.sum(rows.weights * mean_log_p, axis=-1)
        + numbers["kl_weight"] * drift
        + numbers["weight_decay"] * squares / norms**2
    )
    said = jnp.exp(mean_log_p)
    return loss, (jnp.sum(rows.weights * said, axis=-1), said[:, 0])


@functools.partial(jax.checkpoint, policy=jax.checkpoint_policies.dots_saveable)
def _finish(model: Decoder, x: Array) -> Array:
    """Logits; the gradient reads the head where it lies, where otherwise it would keep a copy."""
    return model.finish(x)


def descend(
    model: Decoder,
    rows: Rows,
    ready: Ready,
    active: Array,
    *,
    layer: int,
    settings: TargetSettings,
    levels: Sequence[float] = (),
) -> Descent:
    """Adam on every fact's shift, until each has stopped.

    A fact stops at the first look that finds its loss under the bound, or not finite, or its target
    likely enough, or is the last one; its shift is then the one that was looked at. By our own
    convention, one whose target is likely enough goes back along its last step, to where the
    target's log-odds, taken as linear between the two looks, pass the bound. Compiled once
    for a shape, whatever the layer and the numbers of the settings.
    """
    numbers: Numbers = {name: getattr(settings, name) for name in _NUMBERS}
    numbers["levels"] = jnp.asarray(levels, jnp.float32)
    convention = settings.convention
    return _descend(model, rows, ready, active, numbers, layer, convention=convention)


@functools.partial(jax.jit, static_argnames="convention")
def _descend(
    model: Decoder,
    rows: Rows,
    ready: Ready,
    active: Array,
    numbers: Numbers,
    layer: Array | int,
    *,
    convention: Convention,
) -> Descent:
    adam = optax.scale_by_adam()
    norms = reference_norms(model, rows, ready, convention, layer=layer)
    rates = jnp.broadcast_to(numbers["learning_rate"], norms.shape)
    if convention == "own":  # Adam's first step moves every coordinate by its rate
        rates = rates * norms / math.sqrt(model.config.width)

    def at(shift: Array) -> tuple[Array, tuple[Array, Array]]:
        return losses(shift, model, rows, ready, norms, numbers, layer=layer, convention=convention)

    def look(now: Descent) -> Descent:
        loss, back, (probability, bare) = jax.vjp(at, now.shift, has_aux=True)
        last = now.step == numbers["steps"] - 1
        said = jnp.minimum(probability, bare)
        unlikely = said <= numbers["stop_at"]
        passed = now.active & ~unlikely
        newly = now.active & ~now.marked & (said > numbers["levels"][:, None])

        def back_to(level: Array) -> Array:
            if convention != "own":
                return now.shift
            return now.before + _crossing(now.said, said, level)[..., None] * (
                now.shift - now.before
            )

        going = now.active & (loss >= numbers["stop_below"]) & unlikely
        going = going & jnp.isfinite(loss) & ~last
        # The last look needs no gradient.
        slope = jax.lax.cond(
            jnp.any(going), lambda: back(jnp.ones_like(loss))[0], lambda: jnp.zeros_like(now.shift)
        )
        # Optax raises float32 to an integer power, which a user may have forbidden.
        with jax.numpy_dtype_promotion("standard"):
            change, state = adam.update(slope, now.adam)
        moved = now.shift - rates[:, None] * jnp.asarray(change)
        return Descent(
            shift=jnp.where(
                going[:, None],
                _clamped(moved, numbers["clamp"] * norms),
                jnp.where(passed[:, None], back_to(numbers["stop_at"]), now.shift),
            ),
            before=jnp.where(now.active[:, None], now.shift, now.before),
            said=jnp.where(now.active, said, now.said),
            losses=jnp.where(now.active, loss, now.losses),
            probabilities=jnp.where(now.active, probability, now.probabilities),
            steps=now.steps + going.astype(jnp.int32),
            active=going,
            adam=state,
            step=now.step + 1,
            marks=jnp.where(
                newly[..., None],
                back_to(numbers["levels"][:, None]),
                jnp.where(now.marked[..., None] | ~now.active[:, None], now.marks, now.shift),
            ),
            marked=now.marked | newly,
        )

    f = len(active)
    shift, levels = jnp.zeros((f, model.config.width)), len(numbers["levels"])
    start = Descent(
        shift=shift,
        before=shift,
        said=jnp.zeros(f),
        losses=jnp.full(f, jnp.nan),
        probabilities=jnp.full(f, jnp.nan),
        steps=jnp.zeros(f, jnp.int32),
        active=active,
        adam=adam.init(shift),
        step=jnp.zeros((), jnp.int32),
        marks=jnp.zeros((levels, *shift.shape)),
        marked=jnp.zeros((levels, f), bool),
    )
    return jax.lax.while_loop(lambda now: jnp.any(now.active), look, start)


def reference_norms(
    model: Decoder, rows: Rows, ready: Ready, convention: Convention, *, layer: Array | int
) -> Array:
    """The norm that a fact's shift is measured by, `(f,)`, at the prompt without prefix."""
    f, texts = rows.lengths.shape
    values, rest = (part.reshape(f, texts, -1)[:, 0] for part in (ready.values, ready.rest))
    if convention == "memit":
        values = _block(model, layer).write(rest, values)
    return lengths(values.astype(jnp.float32))


def _crossing(first: Array, second: Array, level: Array) -> Array:
    """Where between two looks the log-odds of probabilities pass those of a level, 0 to 1."""

    def odds(p: Array) -> Array:
        p = jnp.clip(p, 1e-30, 1 - 1e-6)
        return jnp.log(p) - jnp.log1p(-p)

    whole = odds(second) - odds(first)
    return jnp.clip((odds(level) - odds(first)) / jnp.where(whole > 0, whole, 1), 0, 1)


def _clamped(shift: Array, longest: Array) -> Array:
    length = lengths(shift)
    return shift * jnp.minimum(1, longest / jnp.maximum(length, 1e-30))[:, None]


def _flat(array: Array) -> Array:
    """Facts and their texts in one axis."""
    return array.reshape(-1, *array.shape[2:])
