import numpy as np

from kis_jax.factlm.batches import epoch, fill_buckets, num_batches
from kis_jax.factlm.tokenizer import END_OF_TEXT_ID


def texts(rng):
    return [list(rng.integers(1, 99, size=size)) for size in rng.integers(1, 40, size=200)]


def test_buckets_hold_every_text_once_truncated_to_the_context():
    given = texts(np.random.default_rng(0))
    buckets = fill_buckets(given, context_length=32)
    found = [
        tuple(row[:length])
        for bucket in buckets
        for row, length in zip(bucket.tokens, bucket.lengths, strict=True)
    ]
    assert sorted(found) == sorted(tuple(ids[:32]) for ids in given)
    assert max(bucket.length for bucket in buckets) == 32


def test_a_text_is_followed_by_the_end_of_text_unless_it_was_cut():
    short, cut = fill_buckets([[5, 6, 7], list(range(1, 41))], context_length=32)
    assert short.tokens[0, 3] == END_OF_TEXT_ID
    assert cut.tokens[0, 32] == 33


def test_an_epoch_visits_every_text_and_follows_its_seed():
    buckets = fill_buckets(texts(np.random.default_rng(1)), context_length=32)
    batches = list(epoch(buckets, 128, np.random.default_rng(2)))
    assert len(batches) == num_batches(buckets, 128)
    seen = {tuple(row) for tokens, _ in batches for row in tokens}
    assert seen == {tuple(row) for bucket in buckets for row in bucket.tokens}
    again = epoch(buckets, 128, np.random.default_rng(2))
    assert all(
        np.array_equal(a, b) and np.array_equal(m, n)
        for (a, m), (b, n) in zip(batches, again, strict=True)
    )
