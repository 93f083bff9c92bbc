"""Facts to teach as arrays: which of them are optimised together, and what each of them holds."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import jax
import numpy as np

from kis_jax.data.batches import device_memory, token_budget
from kis_jax.data.rewrites import Placed, Rewrite
from kis_jax.models import ModelConfig

_SHARE_OF_MEMORY = 0.125
_ENOUGH_TOKENS = 1024


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rows:
    """The texts of f facts, each with p prefixes, and its essence as one more text.

    Attributes:
      tokens: what the model reads, `(f, p + 1, t)`: all but a target's last token, which nothing
        is predicted from.
      lengths: of the texts, `(f, p + 1)`.
      subjects: place of the subject's last token, `(f, p + 1)`.
      starts: place of the target's first token, `(f, p)`.
      targets: the target's tokens, `(f, p, k)`.
      counted: which of these there are, `(f, p, k)` bool.
      weights: of each text in the loss, `(f, p)`: 0 for one that is longer than the context.
    """

    tokens: np.ndarray
    lengths: np.ndarray
    subjects: np.ndarray
    starts: np.ndarray
    targets: np.ndarray
    counted: np.ndarray
    weights: np.ndarray


@dataclasses.dataclass(frozen=True)
class Extent:
    """How far the texts of a batch reach, so that one compiled program serves many batches.

    Attributes:
      past: the most tokens before a subject's last one.
      suffix: the most tokens from there on.
    """

    past: int
    suffix: int


@dataclasses.dataclass(frozen=True)
class RowBatch:
    """Facts that are optimised together.

    Attributes:
      rows: their texts; those after the last fact repeat it.
      extent: see `Extent`.
      facts: their places in the input.
    """

    rows: Rows
    extent: Extent
    facts: tuple[int, ...]


def row_batches(
    rewrites: Sequence[Rewrite], config: ModelConfig, *, layer: int, budget: int
) -> Iterator[RowBatch]:
    """Batches of facts whose texts go on about as far beyond their subjects.

    Args:
      rewrites: one for each fact, at least one.
      config: of the model.
      layer: the edited one: what is held is of those above it.
      budget: the most tokens from subjects on in a batch, padding included; at least one
        fact is taken, and fewer facts where memory asks for it.
    """
    texts = [_all(rewrite) for rewrite in rewrites]
    reach = np.array([max(map(_suffix, group)) for group in texts])
    lengths = np.array([max(map(_length, group)) for group in texts])
    order = np.lexsort((-lengths, -reach))
    while order.size:
        suffix = int(reach[order[0]])
        past = min(_rounded(int(lengths[order].max()), 8), config.context_length)
        size = _batch_size(config, len(texts[0]), past, suffix, layer, budget)
        size = min(size, 1 << (order.size - 1).bit_length())
        facts, order = order[:size], order[size:]
        padded = [rewrites[fact] for fact in (*facts, *(size - len(facts)) * [facts[-1]])]
        most = max(text.index for fact in facts for text in texts[fact])
        past = min(_rounded(most, 8), config.context_length)
        longest = min(_rounded(int(lengths[facts].max()), 4), config.context_length)
        # What is past is cut from the whole texts.
        rows = _rows(padded, longest)
        yield RowBatch(rows, Extent(min(past, longest), suffix), tuple(map(int, facts)))


def step_budget(config: ModelConfig) -> int:
    """How many tokens to run at once in a step: enough for products of matrices to be fast.

    More would gain less than is lost to the padding of facts whose texts go on less far.
    """
    return min(token_budget(config), _ENOUGH_TOKENS)


def _all(rewrite: Rewrite) -> list[Placed]:
    """The texts of a fact and its essence; in place of those left out, that of no prefix."""
    return [text or _bare(rewrite) for text in rewrite.texts] + [rewrite.essence]


def _bare(rewrite: Rewrite) -> Placed:
    bare = rewrite.texts[0]
    if bare is None:
        raise ValueError("rewrites: expected a text without prefix, found none")
    return bare


def _length(text: Placed) -> int:
    """How many tokens the model reads: a target's last one is not among them."""
    return len(text.tokens) - (text.start < len(text.tokens))


def _suffix(text: Placed) -> int:
    return _length(text) - text.index


def _rounded(length: int, step: int) -> int:
    return -(-max(length, 1) // step) * step


def _batch_size(
    config: ModelConfig, texts: int, past: int, suffix: int, layer: int, budget: int
) -> int:
    """How many facts, a power of two, keep to the budget and to a share of the memory.

    For each token and layer above the edited one, the products that the gradient needs; for each
    token before, attention's keys and values; for each text, its logits, three times.
    """
    hidden = (2 if config.gated else 1) * config.mlp_width
    product = 6 * config.width + hidden + 2 * config.num_heads * (past + suffix)
    kept = 2 * config.num_kv_heads * config.head_dim
    layers = config.num_layers - layer - 1
    floats = layers * (suffix * product + past * kept) + 3 * config.vocab_size
    by_memory = _SHARE_OF_MEMORY * device_memory() / (4 * texts * floats)
    most = max(1, int(min(budget / (texts * suffix), by_memory)))
    return 1 << (most.bit_length() - 1)


def _rows(rewrites: Sequence[Rewrite], longest: int) -> Rows:
    texts = [_all(rewrite) for rewrite in rewrites]
    f, p = len(texts), len(texts[0]) - 1
    most = max(len(text.tokens) - text.start for group in texts for text in group)
    tokens = np.zeros((f, p + 1, longest), np.int32)
    lengths = np.array([[_length(text) for text in group] for group in texts], np.int32)
    targets = np.zeros((f, p, most), np.int32)
    counted = np.zeros((f, p, most), bool)
    for row, group in enumerate(texts):
        for column, text in enumerate(group):
            tokens[row, column, : _length(text)] = text.tokens[: _length(text)]
            if column < p:
                target = text.tokens[text.start :]
                targets[row, column, : len(target)] = target
                counted[row, column, : len(target)] = True
    used = np.array([[text is not None for text in rewrite.texts] for rewrite in rewrites])
    return Rows(
        tokens=tokens,
        lengths=lengths,
        subjects=np.array([[text.index for text in group] for group in texts], np.int32),
        starts=np.array([[text.start for text in group[:-1]] for group in texts], np.int32),
        targets=targets,
        counted=counted,
        weights=(used / used.sum(axis=1, keepdims=True)).astype(np.float32),
    )
