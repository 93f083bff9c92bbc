"""Texts as batches of tokens: bucketed by length, so that almost nothing is padding."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from kis_jax.factlm.tokenizer import END_OF_TEXT_ID

BUCKETS = (10, 13, 16, 34, 48, 60, 76, 96)


@dataclass(frozen=True)
class Bucket:
    """Texts padded to one length.

    Attributes:
      tokens: `(n, length + 1)` int32: a text, the end of text, and padding.
      lengths: `(n,)`: tokens of each text, the end of text not counted.
    """

    tokens: np.ndarray
    lengths: np.ndarray

    @property
    def length(self) -> int:
        """Tokens that the model reads of each text."""
        return self.tokens.shape[1] - 1


def fill_buckets(texts: Sequence[Sequence[int]], context_length: int) -> list[Bucket]:
    """Sorts texts into buckets, each truncated to the context.

    Args:
      texts: token ids, one sequence a text.
      context_length: the most tokens of a text.

    Returns:
      The buckets that are not empty, short texts first.
    """
    limits = sorted({min(limit, context_length) for limit in (*BUCKETS, context_length)})
    sizes = np.array([min(len(ids), context_length) for ids in texts])
    found = np.searchsorted(limits, sizes)
    buckets = []
    for index, limit in enumerate(limits):
        members = np.flatnonzero(found == index)
        if not len(members):
            continue
        tokens = np.full((len(members), limit + 1), END_OF_TEXT_ID, np.int32)
        for row, member in zip(tokens, members.tolist(), strict=True):
            ids = texts[member][: limit + 1]
            row[: len(ids)] = ids
        buckets.append(Bucket(tokens, sizes[members]))
    return buckets


def num_batches(buckets: Sequence[Bucket], tokens_per_batch: int) -> int:
    """Batches of one epoch."""
    return sum(-(-len(b.tokens) // _rows(b, tokens_per_batch)) for b in buckets)


def epoch(
    buckets: Sequence[Bucket], tokens_per_batch: int, rng: np.random.Generator
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """All texts once, in batches of one bucket each, in random order.

    Every batch of a bucket has the same shape, so a step is compiled once a bucket; the last
    one is filled up with texts from the first.

    Yields:
      `tokens` `(b, length + 1)` and `lengths` `(b,)`.
    """
    plan = []
    for bucket in buckets:
        rows = _rows(bucket, tokens_per_batch)
        order = rng.permutation(len(bucket.tokens))
        order = np.resize(order, -(-len(order) // rows) * rows)
        plan += [(bucket, chosen) for chosen in order.reshape(-1, rows)]
    for index in rng.permutation(len(plan)):
        bucket, chosen = plan[index]
        yield bucket.tokens[chosen], bucket.lengths[chosen]


def _rows(bucket: Bucket, tokens_per_batch: int) -> int:
    return max(1, tokens_per_batch // bucket.length)
