"""Text that a model writes itself: the same every time, kept, and refused where there is none."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from kis_jax.data.corpora import Corpus
from kis_jax.models.families import bert
from kis_jax.passes import own_text
from kis_jax.passes.own_text import open_text
from kis_jax.passes.scores import generation
from kis_jax.passes.scores.generation import sample_tokens


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("KIS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(own_text, "_TEXTS", 4)
    monkeypatch.setattr(own_text, "_LENGTH", 12)
    return tmp_path / "cache"


def opened(embedded, limit=6, **changed) -> Corpus:
    model, tokenizer = embedded
    arguments = {"config": model.config, "tokenizer": tokenizer, "model": "x"} | changed
    return open_text("self", limit=limit, **arguments)


def test_the_model_writes_the_same_text_every_time(embedded, cache):
    corpus = opened(embedded)
    first = list(corpus.read(embedded[0]))
    assert len(first) == corpus.num_documents == 6 and all(map(str.strip, first))
    files = sorted(cache.rglob("*.json"))
    assert [path.name for path in files] == ["00000.json", "00001.json"]
    for path in files:
        path.unlink()
    assert list(corpus.read(embedded[0])) == first
    # More of it begins with it, and has another fingerprint.
    more = opened(embedded, limit=7)
    assert list(itertools.islice(more.read(embedded[0]), 6)) == first
    assert more.fingerprint != corpus.fingerprint == opened(embedded).fingerprint
    assert opened(embedded, model="y").fingerprint != corpus.fingerprint


def test_what_was_written_is_read_the_next_time(embedded, cache, monkeypatch):
    first = list(opened(embedded).read(embedded[0]))
    asked = []
    monkeypatch.setattr(own_text, "sample_tokens", lambda *a, **k: asked.append(a))
    assert list(opened(embedded).read(embedded[0])) == first and not asked


def test_a_damaged_part_is_written_again(embedded, cache):
    first = list(opened(embedded).read(embedded[0]))
    for content in ('["a"]', "{", "[1, 2, 3, 4]", '[["a", 1], ["b", 1], ["c", 1], ["d", "1"]]'):
        next(cache.rglob("00000.json")).write_text(content)
        assert list(opened(embedded).read(embedded[0])) == first


def test_how_many_are_written_at_once_does_not_matter(embedded, monkeypatch, cache):
    first = list(opened(embedded).read(embedded[0]))
    monkeypatch.setattr(own_text, "_rows", lambda config, length: 2)
    for path in cache.rglob("*.json"):
        path.unlink()
    assert list(opened(embedded).read(embedded[0])) == first


def test_tokens_are_drawn_as_likely_as_the_model_says(embedded):
    model, _ = embedded
    start, n = np.array([[700]]), 4000
    drawn = sample_tokens(model, np.tile(start, (n, 1)), num_tokens=1, places=np.arange(n))[:, 0]
    logits = np.asarray(model(jnp.asarray(start))[0, -1], np.float64)
    probabilities = np.exp(logits - logits.max())
    probabilities /= probabilities.sum()
    counts = np.bincount(drawn, minlength=len(probabilities))
    likely = n * probabilities > 20
    spread = np.sqrt(n * probabilities * (1 - probabilities))
    assert likely.sum() >= 5
    assert np.all(np.abs(counts - n * probabilities)[likely] < 5 * spread[likely])
    rare = n * probabilities[~likely].sum()
    assert abs(counts[~likely].sum() - rare) < 5 * np.sqrt(rare)


def test_the_ends_of_the_distribution_are_within_it():
    logits = jnp.log(jnp.array([[0.25, 0.5, 0.25, 0.0]]))
    for uniform, expected in ((0.0, 0), (0.2499, 0), (0.25, 1), (0.7499, 1), (0.9999999, 2)):
        assert int(generation._drawn(logits, jnp.array([uniform]))[0]) == expected


def test_a_model_that_writes_nothing_but_its_end_is_refused(embedded, monkeypatch):
    model, tokenizer = embedded

    def ends(model, tokens, *, num_tokens, **rest):
        return np.full((len(tokens), num_tokens), tokenizer.eos_token_id, np.int32)

    monkeypatch.setattr(own_text, "sample_tokens", ends)
    with pytest.raises(ValueError, match="nothing but its end-of-text token after 4 first tokens"):
        list(opened(embedded).read(model))


def test_what_cannot_write_is_refused(embedded):
    sizes = {"vocab_size": 8, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    encoder = bert.read_config(sizes | {"intermediate_size": 8, "max_position_embeddings": 8})
    with pytest.raises(ValueError, match=r"an encoder \(bert\) writes none itself; name"):
        opened(embedded, config=encoder)
    with pytest.raises(ValueError, match="only a model that one device holds writes its own"):
        opened(embedded).documents()
    with pytest.raises(ValueError, match="num_documents: expected a positive number, found 0"):
        opened(embedded, limit=0)


def test_a_cache_that_cannot_be_written_is_named(embedded, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("KIS_CACHE", str(tmp_path / "file"))
    with pytest.raises(ValueError, match="name one by the variable KIS_CACHE"):
        list(opened(embedded).read(embedded[0]))


def test_by_default_there_are_so_many_tokens_for_each_dimension(embedded, monkeypatch):
    monkeypatch.setattr(own_text, "_TOKENS_PER_DIMENSION", 0.25)  # 128 for keys of 512
    model, tokenizer = embedded
    corpus = opened(embedded, limit=None)
    counts = [len(ids) for ids in tokenizer(list(corpus.read(model)))["input_ids"]]
    # What a model writes need not be split again as it was written.
    assert corpus.num_documents is None and 120 < sum(counts) < 128 + 2 * 12
