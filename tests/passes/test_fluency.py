import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from kis_jax.data.facts import Fact
from kis_jax.passes.scores import fluency as module
from kis_jax.passes.scores.fluency import fluency, ngram_entropy


def test_by_hand():
    # Pairs: a b, b a, a b, b c: shares 1/2, 1/4, 1/4, so 3/2 bits. Triples: three different ones.
    expected = (2 / 3 * 1.5 + 4 / 3 * math.log2(3)) / 2
    assert ngram_entropy("a b a b c") == pytest.approx(expected)


def test_marks_are_words_and_blanks_are_not():
    assert ngram_entropy("Yes,  no.") == ngram_entropy("Yes , no .") > 0


@pytest.mark.parametrize("text", ["", "word", "word word"])
def test_short_texts_have_none(text):
    assert ngram_entropy(text) == 0.0


@settings(deadline=None)
@given(st.lists(st.sampled_from("abc"), min_size=3, max_size=40))
def test_equals_scipys_entropy(words):
    entropies = []
    for n in (2, 3):
        counts = Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
        entropies.append(stats.entropy(list(counts.values()), base=2))
    expected = np.mean([entropies[0] * 2 / 3, entropies[1] * 4 / 3])
    assert ngram_entropy(" ".join(words)) == pytest.approx(expected)


def test_each_facts_texts_are_its_own(monkeypatch):
    facts = [
        Fact(0, "{}", "A", generation_prompts=("x y", "x y")),
        Fact(1, "{}", "B"),
        Fact(2, "{}", "C", generation_prompts=("p q r",)),
    ]
    written = {"x y": " z", "p q r": " s t u v"}

    def generate(model, tokenizer, prompts, *, num_tokens, seed):
        assert (num_tokens, seed) == (5, 3)
        return [written[prompt] for prompt in prompts]

    monkeypatch.setattr(module, "generate", generate)
    found = fluency(None, None, facts, num_tokens=5, seed=3)
    assert found[0] == pytest.approx(ngram_entropy("x y z")) and np.isnan(found[1])
    assert found[2] == pytest.approx(ngram_entropy("p q r s t u v"))
