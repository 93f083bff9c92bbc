"""A corpus tokenized by many hosts, each its share, and known to all of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils
from transformers import PreTrainedTokenizerFast

from kis_jax.data.corpora import tokenize_corpus
from kis_jax.passes.hosts.distributed import each

_CHUNK = 256  # documents a host tokenizes between two meetings
_LEAST = 2**14  # numbers sent at least, so that few programs are compiled


def tokenize_together(
    documents: Iterable[str], tokenizer: PreTrainedTokenizerFast, *, context_length: int
) -> Iterator[list[int]]:
    """Tokenizes documents as `tokenize_corpus` does, each host a share of them. A collective.

    Every host reads all documents, which takes little, and tokenizes one in so many as there are
    hosts; token ids, four bytes each, then go to all.

    Args:
      documents: the same on every host.
      tokenizer: likewise.
      context_length: tokens at which documents are cut.

    Yields:
      Token ids of all documents in their order, the same on every host.

    Raises:
      ValueError: on every host, if documents cannot be read on one.
    """
    hosts, mine = jax.process_count(), jax.process_index()
    if hosts == 1:
        yield from tokenize_corpus(documents, tokenizer, context_length=context_length)
        return
    stream = iter(documents)

    def share() -> tuple[int, list[list[int]]]:
        chunk = list(itertools.islice(stream, hosts * _CHUNK))
        first, last = (len(chunk) * host // hosts for host in (mine, mine + 1))
        texts = tokenize_corpus(chunk[first:last], tokenizer, context_length=context_length)
        return len(chunk), list(texts)

    while True:
        read, texts = each(share)
        if not read:
            return
        yield from _of_all_hosts(texts)


def _of_all_hosts(texts: list[list[int]]) -> list[list[int]]:
    """The texts of all hosts, in the order of the hosts. A collective."""
    lengths = [len(text) for text in texts]
    numbers = np.fromiter(itertools.chain([len(texts)], lengths, *texts), np.int32)
    size = int(multihost_utils.process_allgather(np.array(len(numbers), np.int32)).max())
    padded = np.zeros(max(_LEAST, 1 << (size - 1).bit_length()), np.int32)
    padded[: len(numbers)] = numbers
    found = []
    for of_host in np.asarray(multihost_utils.process_allgather(padded)):
        count = int(of_host[0])
        ends = 1 + count + np.cumsum(of_host[1 : 1 + count])
        starts = np.concatenate([[1 + count], ends[:-1]])
        found += [of_host[a:b].tolist() for a, b in zip(starts, ends, strict=True)]
    return found
