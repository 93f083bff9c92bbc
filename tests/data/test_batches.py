import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kis_jax.data.batches import bytes_per_token, fill_batches, longest_text, token_budget
from kis_jax.models.families import gpt2


def config(context_length):
    return gpt2.read_config({"n_positions": context_length, "vocab_size": 61})


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 100), min_size=1, max_size=60),
    st.integers(1, 400),
)
def test_every_text_comes_once_within_the_budget(lengths, budget):
    texts = [[i + 1] * length for i, length in enumerate(lengths)]
    batches = list(fill_batches(texts, config(100), token_budget=budget))
    found = {}
    for batch in batches:
        b, t = batch.tokens.shape
        assert b == 1 or b * t <= budget
        assert t <= 100 and batch.mask.shape == (b, t)
        for row, place in enumerate(batch.rows):
            found[place] = batch.tokens[row][batch.mask[row]].tolist()
        assert not batch.mask[len(batch.rows) :].any()
    assert [found[i] for i in range(len(texts))] == texts
    assert sum(len(batch.rows) for batch in batches) == len(texts)


def test_little_is_padding_and_few_shapes_are_made(rng):
    lengths = np.clip(rng.lognormal(5, 1, size=5000).astype(int), 1, 1024)
    texts = ([0] * length for length in lengths)
    batches = list(fill_batches(texts, config(1024), token_budget=8192))
    padded = sum(batch.mask.size for batch in batches)
    assert lengths.sum() / padded > 0.85
    assert len({batch.tokens.shape for batch in batches}) <= 40


def test_memory_is_that_of_unfinished_batches():
    """A stream without end gives its first batch after a handful of texts."""

    def endless():
        while True:
            yield [1] * 10

    first = next(iter(fill_batches(endless(), config(64), token_budget=64)))
    assert first.tokens.shape == (6, 10)


def test_the_budget_follows_memory_and_never_only_the_context():
    small = gpt2.read_config({})
    assert token_budget(small, memory=2**40) == 4096
    tight = token_budget(small, memory=2**30)
    assert 256 < tight < 4096
    assert token_budget(small, memory=2**29) == pytest.approx(tight / 2, abs=1)


def test_a_batch_is_priced_by_its_own_length():
    """A long context costs nothing as long as texts are short; long texts run fewer at once."""
    memory = 23 * 2**30
    long = config(131_072)
    budget = token_budget(long, memory=memory)
    assert budget == token_budget(config(1024), memory=memory) == 4096
    for length in (100, 1024, 1500, 2048, 4096, 40_000):
        (first, *_) = fill_batches([[1] * length] * 40, long, token_budget=budget)
        b, t = first.tokens.shape
        assert b == 1 or b * t <= budget
        assert b == 1 or b * t * bytes_per_token(long, t) <= 4096 * bytes_per_token(long, 1024)
        assert b == 4096 // t if t <= 1024 else b <= max(1, 4096 // t)
    assert len(first.rows) == 1


@pytest.mark.parametrize("length", [1, 7, 1000, 99_999])
def test_the_longest_text_is_the_last_that_fits(length):
    long = config(100_000)
    memory = length * bytes_per_token(long, length)
    assert longest_text(long, memory) == length
    assert longest_text(long, memory - 1) == length - 1
    assert longest_text(long, 10**15) == 100_000 and longest_text(long, -5) == 0


@pytest.mark.parametrize("length", [0, 11])
def test_texts_outside_the_context_are_refused(length):
    with pytest.raises(ValueError, match=f"expected 1 to 10 tokens, found {length} in text 1"):
        list(fill_batches([[1], [1] * length], config(10), token_budget=64))


def test_tokens_of_another_vocabulary_are_refused():
    with pytest.raises(ValueError, match=r"below 61.* found 61 in text 1.*another model"):
        list(fill_batches([[60], [3, 61]], config(10), token_budget=64))
