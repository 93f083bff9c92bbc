"""Texts to batches of tokens: filled by length, under a budget chosen from memory."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterable, Iterator

import jax
import numpy as np

from kis_jax.models import ModelConfig

# More tokens at once gain nothing: products are long past the size at which they are fast, and the
# attention weights past that of any cache.
_MOST_TOKENS = 4096
_SHARE_OF_MEMORY = 0.125
# The length up to which a budget holds to the letter; of longer texts fewer tokens are taken.
_PRICED_LENGTH = 1024


@dataclasses.dataclass(frozen=True)
class Batch:
    """Some texts as one array.

    Attributes:
      tokens: `(b, t)` int32, padded on the right with zeros.
      mask: `(b, t)` bool, False at padding.
      rows: for each row that holds a text, the place of that text in the input; the rows after
        these are empty.
    """

    tokens: np.ndarray
    mask: np.ndarray
    rows: tuple[int, ...]


def fill_batches(
    texts: Iterable[list[int]], config: ModelConfig, *, token_budget: int
) -> Iterator[Batch]:
    """Batches texts of about one length, a fixed number of tokens at a time.

    Lengths are rounded up to a few per octave (8, 10, 12, 14, 16, 20, 24, ...), so that little is
    padding and few shapes have to be compiled. Which texts share a batch depends on the texts
    and the budget alone. Holds at most one unfinished batch for each length.

    Args:
      texts: token ids of each, at least one and at most as many as the model's context.
      config: of the model that is to run them.
      token_budget: the most tokens in a batch, padding included; at least one text is taken. Of
        texts beyond 1,024 tokens fewer, as attention holds a square of each: so many that a batch
        holds no more than a full one of 1,024 does.

    Yields:
      Batches of shape `(b, t)`, b no more than `max(1, token_budget // t)`; the last ones may
      have fewer rows, a power of two of them, some empty. Every text comes in exactly one.

    Raises:
      ValueError: if a text is empty, longer than the context, or has a token that the model does
        not know.
    """
    context_length, vocab_size = config.context_length, config.vocab_size
    waiting: dict[int, list[tuple[int, list[int]]]] = {}
    for place, text in enumerate(texts):
        if not 1 <= len(text) <= context_length:
            raise ValueError(
                f"texts: expected 1 to {context_length} tokens, found {len(text)} in text {place}"
            )
        if max(text) >= vocab_size:
            raise ValueError(
                f"texts: expected tokens below {vocab_size}, the model's vocabulary, found "
                f"{max(text)} in text {place}; the tokenizer belongs to another model"
            )
        length = _rounded(len(text), context_length)
        queue = waiting.setdefault(length, [])
        queue.append((place, text))
        if len(queue) == _batch_size(config, length, token_budget):
            yield _pad(queue, length, len(queue))
            queue.clear()
    # What is left over goes out from the longest to the shortest, short texts filling up the
    # batches of longer ones: fewer of them than one for each length.
    rest = sorted((item for queue in waiting.values() for item in queue), key=_longest_first)
    while rest:
        length = _rounded(len(rest[0][1]), context_length)
        size = min(_batch_size(config, length, token_budget), 1 << (len(rest) - 1).bit_length())
        yield _pad(rest[:size], length, size)
        rest = rest[size:]


def token_budget(config: ModelConfig, *, memory: int | None = None) -> int:
    """How many tokens to run at once: as many as fit an eighth of the memory, at most 4,096.

    Args:
      config: of the model.
      memory: bytes; that of the first device (of the machine, if it is a CPU) if None.
    """
    available = device_memory() if memory is None else memory
    share = _SHARE_OF_MEMORY * available / bytes_per_token(config, _priced_length(config))
    return int(min(_MOST_TOKENS, max(1, share)))


def bytes_per_token(config: ModelConfig, length: int) -> int:
    """What one layer holds for each token of texts of one length.

    Attention weights for every head and position of the text, twice; the MLP's hidden layer,
    three times, that of each expert that reads it in a mixture; the residual stream and its
    projections, ten times; four bytes each.
    """
    hidden = 3 * config.experts_per_token * config.mlp_width
    return 4 * (2 * config.num_heads * length + hidden + 10 * config.width)


def batch_bytes(config: ModelConfig, *, token_budget: int, longest: int) -> int:
    """The most that one layer holds for any batch of texts of no more than some length."""
    full = token_budget * bytes_per_token(config, min(longest, _priced_length(config)))
    return max(full, longest * bytes_per_token(config, longest))


def longest_text(config: ModelConfig, memory: int) -> int:
    """The most tokens of one text whose activations fit so many bytes; 0 if none does.

    The inverse of `length * bytes_per_token(config, length)`, a parabola.
    """
    square, linear = 8 * config.num_heads, bytes_per_token(config, 0)
    root = math.isqrt(linear**2 + 4 * square * max(0, memory))
    return min(config.context_length, (root - linear) // (2 * square))


def device_memory() -> int:
    """Bytes of the first device; of the machine, if it is a CPU."""
    device = jax.local_devices()[0]
    if device.platform == "cpu":
        return host_memory()
    return (device.memory_stats() or {}).get("bytes_limit", 8 * 2**30)


def host_memory() -> int:
    """Bytes of the machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _rounded(length: int, most: int) -> int:
    """The next of 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, ..., but no more than `most`."""
    step = max(2, 2 ** ((max(length, 8) - 1).bit_length() - 3))
    return min(most, max(8, -(-length // step) * step))


def _priced_length(config: ModelConfig) -> int:
    return min(_PRICED_LENGTH, config.context_length)


def _batch_size(config: ModelConfig, length: int, token_budget: int) -> int:
    held = token_budget * bytes_per_token(config, _priced_length(config))
    allowed = held // bytes_per_token(config, length)
    return max(1, min(token_budget, allowed) // length)


def _longest_first(item: tuple[int, list[int]]) -> tuple[int, int]:
    return -len(item[1]), item[0]


def _pad(items: list[tuple[int, list[int]]], length: int, size: int) -> Batch:
    tokens = np.zeros((size, length), np.int32)
    mask = np.zeros((size, length), bool)
    for row, (_, text) in enumerate(items):
        tokens[row, : len(text)] = text
        mask[row, : len(text)] = True
    return Batch(tokens, mask, tuple(place for place, _ in items))
