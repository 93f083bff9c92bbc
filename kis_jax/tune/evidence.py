"""What is cheap to know about each layer before any edit is tried there."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from transformers import PreTrainedTokenizerFast

from kis_jax.core.arrays.precision import HOST
from kis_jax.core.arrays.products import lengths as norms
from kis_jax.core.geometry.superposition import superposition
from kis_jax.data.facts import Fact
from kis_jax.data.rewrites import Rewrite, tokenize_rewrites
from kis_jax.models import Decoder, Shift
from kis_jax.passes.targets.settings import TargetSettings

# Noise that hides a subject, in standard deviations of the embeddings, as ROME's causal tracing.
_NOISE = 3.0


@dataclasses.dataclass(frozen=True)
class LayerEvidence:
    """One layer, before any edit.

    Attributes:
      layer: its index.
      slope: how fast the log-probability of a new target grows at v_0, per length of v_0; the
        mean over facts.
      effect: how much of the true target's probability comes back to a run with a hidden subject
        when this layer's MLP answers at the subject's last token as it did; the mean over facts.
      overlap: the root mean square of P between different facts' keys there.
    """

    layer: int
    slope: float
    effect: float
    overlap: float

    @property
    def cost(self) -> float:
        """What an edit is expected to move elsewhere for each unit of log p: overlap / slope."""
        return self.overlap / self.slope if self.slope > 0 else float("inf")


def layer_evidence(
    model: Decoder,
    tokenizer: PreTrainedTokenizerFast,
    facts: Sequence[Fact],
    settings: TargetSettings,
    spaces,
    layers: Sequence[int],
) -> list[LayerEvidence]:
    """Evidence of some layers, from three passes over the facts' prompts for each.

    Args:
      model: a decoder.
      tokenizer: of the model.
      facts: that it knows, each with a true and a new target.
      settings: which say where a fact's key stands.
      spaces: a function of a layer: its space, or None if it has none.
      layers: to be looked at.
    """
    length = model.config.context_length
    texts = [
        [
            _bare(rewrite)
            for rewrite in tokenize_rewrites(
                [dataclasses.replace(fact, target_new=target) for fact, target in pairs],
                [""],
                tokenizer,
                context_length=length,
                position=settings.position,
            )
        ]
        for pairs in (
            [(fact, fact.target_new) for fact in facts],
            [(fact, fact.target_true) for fact in facts],
        )
    ]
    new, true = (_arrays(group) for group in texts)
    scale = float(jnp.std(model.embedding.embedding[...].astype(jnp.float32)))
    noise = _NOISE * scale * jax.random.normal(jax.random.key(0), (model.config.width,))
    hidden = np.array([text.index for text in texts[1]])
    found = []
    for layer in layers:
        index = jnp.asarray(layer)
        slopes, keys = _slopes(model, *new, index)
        effects = _effects(model, *true, jnp.asarray(hidden), noise, index)
        overlap, space = float("nan"), spaces(layer)
        if space is not None and len(facts) > 1:
            p = np.asarray(HOST.run(superposition, np.asarray(keys, np.float64), space))
            apart = p[~np.eye(len(p), dtype=bool)]
            overlap = float(np.sqrt(np.mean(apart[np.isfinite(apart)] ** 2)))
        found.append(LayerEvidence(layer, float(np.mean(slopes)), float(np.mean(effects)), overlap))
    return found


def _bare(rewrite: Rewrite):
    (text,) = rewrite.texts
    if text is None:
        raise ValueError("facts: expected prompts that fit the context, found a longer one")
    return text


def _arrays(texts) -> tuple[np.ndarray, ...]:
    """Tokens, mask, place of the key, and which tokens are the target's: (n, t), (n,), (n, t)."""
    longest = -(-max(len(text.tokens) for text in texts) // 4) * 4
    tokens = np.zeros((len(texts), longest), np.int32)
    mask, target = np.zeros(tokens.shape, bool), np.zeros(tokens.shape, bool)
    for row, text in enumerate(texts):
        tokens[row, : len(text.tokens)] = text.tokens
        mask[row, : len(text.tokens)] = True
        target[row, text.start : len(text.tokens)] = True
    return tokens, mask, np.array([text.index for text in texts]), target


def _log_p(logits: Array, tokens: Array, target: Array) -> Array:
    """Mean log-probability of the target's tokens, `(n,)`."""
    said = jnp.take_along_axis(jax.nn.log_softmax(logits[:, :-1]), tokens[:, 1:, None], axis=2)[
        ..., 0
    ]
    return jnp.mean(said, axis=1, where=target[:, 1:])


@jax.jit
def _slopes(
    model: Decoder, tokens: Array, mask: Array, place: Array, target: Array, layer: Array
) -> tuple[Array, Array]:
    """How fast log p grows with a shift, per length of v_0, `(n,)`; and keys of the layer."""
    every = jnp.arange(len(tokens))
    here = jnp.arange(tokens.shape[1]) == place[:, None]

    def total(vectors: Array) -> tuple[Array, tuple[Array, Array]]:
        x, shown = model.run(
            model.embed(tokens, mask),
            mask,
            shift=Shift(layer, vectors, here),
            watch=lambda g: (g.values[every, place], g.keys[every, place]),
        )
        here_alone = jax.tree.map(lambda part: part[layer], shown)
        return jnp.sum(_log_p(model.finish(x), tokens, target)), here_alone

    zeros = jnp.zeros((len(tokens), model.config.width))
    slope, (values, keys) = jax.grad(total, has_aux=True)(zeros)
    own = norms(values.astype(jnp.float32))
    return norms(slope) * own, keys.astype(jnp.float32)


@jax.jit
def _effects(
    model: Decoder,
    tokens: Array,
    mask: Array,
    place: Array,
    target: Array,
    subjects: Array,
    noise: Array,
    layer: Array,
) -> Array:
    """What of p(true) a layer's answer brings back where the subject is hidden, `(n,)`."""
    every = jnp.arange(len(tokens))
    here = jnp.arange(tokens.shape[1]) == place[:, None]
    x = model.embed(tokens, mask)
    # Of the subject, and of what stands before it, nothing is left.
    spots = (jnp.arange(tokens.shape[1]) <= subjects[:, None]) & mask
    covered = x + jnp.where(spots[..., None], noise, 0).astype(x.dtype)

    def run(start: Array, vectors: Array) -> tuple[Array, Array]:
        x, shown = model.run(
            start,
            mask,
            shift=Shift(layer, vectors, here),
            watch=lambda g: g.values[every, place],
        )
        return jnp.exp(_log_p(model.finish(x), tokens, target)), shown[layer]

    zeros = jnp.zeros((len(tokens), model.config.width), x.dtype)
    _, clean = run(x, zeros)
    low, corrupted = run(covered, zeros)
    back, _ = run(covered, clean - corrupted)
    return back - low
