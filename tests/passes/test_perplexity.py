import itertools

import numpy as np
import pytest

from kis_jax import factlm
from kis_jax.data.corpora import open_corpus
from kis_jax.passes.scores.perplexity import perplexity


@pytest.fixture(scope="module")
def documents():
    return list(itertools.islice(open_corpus(factlm.NAME).documents(), 8))


def test_equals_torchs_loss(embedded, documents):
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM

    model, tokenizer = embedded
    theirs = AutoModelForCausalLM.from_pretrained(factlm.model_directory()).eval()
    total = count = 0
    for document in documents:
        tokens = torch.tensor([tokenizer(document)["input_ids"][: model.config.context_length]])
        with torch.no_grad():
            loss = theirs(tokens, labels=tokens).loss  # mean over all tokens but the first
        total, count = total + float(loss) * (tokens.shape[1] - 1), count + tokens.shape[1] - 1
    expected = np.exp(total / count)
    found = perplexity(model, tokenizer, documents, token_budget=400)
    assert found == pytest.approx(expected, rel=1e-4)


def test_what_the_model_was_trained_on_is_plain_to_it(embedded, documents):
    words = [" ".join(sorted(document.split())) for document in documents]
    assert 1 < perplexity(*embedded, documents) < 15 < perplexity(*embedded, words)


def test_documents_are_cut_to_the_context(embedded):
    model, tokenizer = embedded
    long = "The bus leaves at noon. " * 40
    cut = tokenizer.decode(tokenizer(long)["input_ids"][: model.config.context_length])
    assert perplexity(model, tokenizer, [long]) == perplexity(model, tokenizer, [cut])


def test_too_little_text_is_named(embedded):
    with pytest.raises(ValueError, match="documents: expected one of two tokens or more"):
        perplexity(*embedded, ["", "a"])
