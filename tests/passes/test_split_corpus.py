"""A corpus tokenized by several hosts, here threads, against one that does it alone."""

import threading
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import pytest
from jax.experimental import multihost_utils

from kis_jax.data.corpora import tokenize_corpus
from kis_jax.passes.hosts import split_corpus
from kis_jax.passes.hosts.split_corpus import tokenize_together

DOCUMENTS = [f"{'word ' * (i % 7)}{i}" for i in range(101)]


@pytest.fixture
def on_hosts(monkeypatch):
    """Runs a function in so many threads, each of which takes itself for a host."""

    def run(count, function):
        here, barrier, parts = threading.local(), threading.Barrier(count), [None] * count

        def gather(array, tiled=False):
            assert not tiled
            parts[here.index] = np.asarray(array)
            barrier.wait(timeout=30)
            found = np.stack(parts)
            barrier.wait(timeout=30)
            return found

        def of_host(index):
            here.index = index
            return function(index)

        monkeypatch.setattr(jax, "process_count", lambda: count)
        monkeypatch.setattr(jax, "process_index", lambda: here.index)
        monkeypatch.setattr(multihost_utils, "process_allgather", gather)
        with ThreadPoolExecutor(count) as pool:
            return list(pool.map(of_host, range(count)))

    return run


@pytest.mark.parametrize("hosts", [1, 2, 3])
def test_all_hosts_have_all_texts_and_tokenize_a_share(
    on_hosts, monkeypatch, embedded_tokenizer, hosts
):
    expected = list(tokenize_corpus(DOCUMENTS, embedded_tokenizer, context_length=8))
    taken = dict.fromkeys(range(hosts), 0)

    def counted(documents, *given, **options):
        documents = list(documents)
        taken[jax.process_index() if hosts > 1 else 0] += len(documents)
        return tokenize_corpus(documents, *given, **options)

    monkeypatch.setattr(split_corpus, "tokenize_corpus", counted)
    monkeypatch.setattr(split_corpus, "_CHUNK", 8)
    found = on_hosts(
        hosts, lambda _: list(tokenize_together(DOCUMENTS, embedded_tokenizer, context_length=8))
    )
    assert found == [expected] * hosts
    assert sum(taken.values()) == len(DOCUMENTS)
    assert max(taken.values()) <= len(DOCUMENTS) / hosts + 8


def test_no_documents_are_no_texts(on_hosts, embedded_tokenizer):
    found = on_hosts(2, lambda _: list(tokenize_together([], embedded_tokenizer, context_length=8)))
    assert found == [[], []]


def test_what_one_host_cannot_read_is_an_error_on_all(on_hosts, embedded_tokenizer):
    def documents(index):
        yield from DOCUMENTS[:20]
        if index == 1:
            raise ValueError("corpus.txt: expected UTF-8 text")

    def run(index):
        with pytest.raises(ValueError, match="host 1: corpus.txt: expected UTF-8"):
            list(tokenize_together(documents(index), embedded_tokenizer, context_length=8))
        return True

    assert on_hosts(2, run) == [True, True]
