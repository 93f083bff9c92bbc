"""Facts to teach as arrays: which of them are optimised together, and what each of them holds."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence

import jax
import numpy as np

from kis_jax.data.batches import device_memory, token_budget
from kis_jax.data.rewrites import Placed, Rewrite
from kis_jax.models import DecoderConfig, ModelConfig

_SHARE_OF_MEMORY = 0.125
_ENOUGH_TOKENS = 1024
# What compiling one more program is worth: five seconds of a core.
_PROGRAM_FLOPS = 5e11
# Looks after which most facts are done, where their search ends with the probability.
_USUAL_STEPS = 12


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rows:
    """The texts of f facts, each with p prefixes, and its essence as one more text.

    Attributes:
      opening: tokens with which the texts of all facts begin after each prefix, `(p + 1, o)`.
      opening_lengths: how many these are, `(p + 1,)`.
      tokens: those that follow, `(f, p + 1, t)`: all but a target's last token, which nothing
        is predicted from. All places below count from the first of them.
      lengths: how many follow, `(f, p + 1)`.
      subjects: place of the subject's last token, `(f, p + 1)`.
      starts: place of the target's first token, `(f, p)`.
      targets: the target's tokens, `(f, p, k)`.
      counted: which of these there are, `(f, p, k)` bool.
      weights: of each text in the loss, `(f, p)`: 0 for one that is longer than the context.
    """

    opening: np.ndarray
    opening_lengths: np.ndarray
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
      past: the most tokens between the opening and a subject's last one.
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
    rewrites: Sequence[Rewrite], config: DecoderConfig, *, layer: int, budget: int, steps: int
) -> Iterator[RowBatch]:
    """Batches of facts whose texts go on about as far beyond their subjects.

    Args:
      rewrites: one for each fact, at least one.
      config: of the model.
      layer: the edited one: what is held is of those above it.
      budget: the most tokens from subjects on in a batch, padding included; at least one
        fact is taken, and fewer facts where memory asks for it.
      steps: of the descent, which says how much padding is worth a program of its own.
    """
    groups = [_all(rewrite) for rewrite in rewrites]
    rotaries = [kind for kind in (config.rotary, config.local_rotary) if kind is not None]
    openings = [[] for _ in groups[0]]
    # Of a single fact there is nothing to share: its texts stay whole, so that facts given one
    # after another are all run by one program.
    if len(groups) > 1 and not any(rotary.by_length for rotary in rotaries):
        openings = [_opening(column) for column in zip(*groups, strict=True)]
    texts = [_without(openings, group) for group in groups]
    used = [[text is not None for text in rewrite.texts] for rewrite in rewrites]
    reach = np.array([max(map(_suffix, group)) for group in texts])
    flops = _step_flops(config, layer, len(openings)) * min(steps, _USUAL_STEPS)
    for suffix, members in _by_reach(reach, flops):
        past = _rounded(max(text.index for fact in members for text in texts[fact]), 8)
        most = _batch_size(
            config, len(openings), past + max(map(len, openings)), suffix, layer, budget
        )
        size = -(-len(members) // -(-len(members) // most))
        for first in range(0, len(members), size):
            facts = members[first : first + size]
            padded = [*facts, *(size - len(facts)) * [facts[-1]]]
            rows = _rows(openings, [texts[fact] for fact in padded], [used[f] for f in padded])
            extent = Extent(min(past, rows.tokens.shape[2]), suffix)
            yield RowBatch(rows, extent, tuple(map(int, facts)))


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


def _opening(texts: Sequence[Placed]) -> list[int]:
    """What texts begin with before the subject of any of them ends."""
    most = min(text.index for text in texts)
    columns = zip(*(text.tokens[:most] for text in texts), strict=True)
    same = itertools.takewhile(lambda tokens: len(set(tokens)) == 1, columns)
    return [tokens[0] for tokens in same]


def _without(openings: Sequence[Sequence[int]], group: Sequence[Placed]) -> list[Placed]:
    """The texts of a fact from where their openings end."""
    return [
        Placed(text.tokens[n:], text.index - n, text.start - n)
        for text, n in zip(group, map(len, openings), strict=True)
    ]


def _by_reach(reach: np.ndarray, flops: float) -> Iterator[tuple[int, list[int]]]:
    """Facts by how far they reach, neighbours together where padding costs less than a program.

    Args:
      reach: of each fact.
      flops: what one more token to each text of a fact costs in the whole descent.

    Yields:
      The reach that the facts are padded to, and their places.
    """
    members: list[int] = []
    sizes = np.unique(reach)
    for here, longer in zip(sizes, [*sizes[1:], None], strict=True):
        members += np.flatnonzero(reach == here).tolist()
        if longer is None or len(members) * (longer - here) * flops > _PROGRAM_FLOPS:
            yield int(here), members
            members = []


def _step_flops(config: ModelConfig, layer: int, texts: int) -> float:
    """Of one token of each text of a fact, through the layers above and back."""
    matrices = (3 if config.gated else 2) * config.experts_per_token
    matrices *= config.mlp_width * config.width
    matrices += 2 * config.num_heads * config.head_dim * config.width
    matrices += 2 * config.num_kv_heads * config.head_dim * config.width
    return 4.0 * texts * (config.num_layers - layer - 1) * matrices


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
    """How many facts keep to the budget and to a share of the memory.

    For each token and layer above the edited one, the products that the gradient needs; for each
    token before, attention's keys and values; for each text, its logits, three times, and of a
    mixture its row of the whole memory.
    """
    hidden = (2 if config.gated else 1) * config.experts_per_token * config.mlp_width
    product = 6 * config.width + hidden + 2 * config.num_heads * (past + suffix)
    kept = 2 * config.num_kv_heads * config.head_dim
    layers = config.num_layers - layer - 1
    floats = layers * (suffix * product + past * kept) + 3 * config.vocab_size
    floats += 0 if config.experts is None else config.memory_width
    by_memory = _SHARE_OF_MEMORY * device_memory() / (4 * texts * floats)
    return max(1, int(min(budget / (texts * suffix), by_memory)))


def _rows(
    openings: Sequence[Sequence[int]],
    texts: Sequence[Sequence[Placed]],
    used: Sequence[Sequence[bool]],
) -> Rows:
    f, p = len(texts), len(openings) - 1
    longest = _rounded(max(_length(text) for group in texts for text in group), 4)
    most = max(len(text.tokens) - text.start for group in texts for text in group)
    opening = np.zeros((p + 1, max(map(len, openings))), np.int32)
    tokens = np.zeros((f, p + 1, longest), np.int32)
    lengths = np.array([[_length(text) for text in group] for group in texts], np.int32)
    targets = np.zeros((f, p, most), np.int32)
    counted = np.zeros((f, p, most), bool)
    for column, shared in enumerate(openings):
        opening[column, : len(shared)] = shared
    for row, group in enumerate(texts):
        for column, text in enumerate(group):
            tokens[row, column, : _length(text)] = text.tokens[: _length(text)]
            if column < p:
                target = text.tokens[text.start :]
                targets[row, column, : len(target)] = target
                counted[row, column, : len(target)] = True
    weights = np.array(used)
    return Rows(
        opening=opening,
        opening_lengths=np.array([len(shared) for shared in openings], np.int32),
        tokens=tokens,
        lengths=lengths,
        subjects=np.array([[text.index for text in group] for group in texts], np.int32),
        starts=np.array([[text.start for text in group[:-1]] for group in texts], np.int32),
        targets=targets,
        counted=counted,
        weights=(weights / weights.sum(axis=1, keepdims=True)).astype(np.float32),
    )
