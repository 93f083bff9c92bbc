import json

import numpy as np
import pytest
from tokenizers import Tokenizer

from kis_jax import checkpoints, factlm
from kis_jax.factlm.recall import known, recall
from kis_jax.factlm.world import build_world


@pytest.fixture(scope="module")
def shipped():
    return checkpoints.load(factlm.model_directory())


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.from_file(str(factlm.model_directory() / "tokenizer.json"))


@pytest.fixture(scope="module")
def measured(shipped, tokenizer):
    return recall(shipped[0], tokenizer, build_world())


def test_it_knows_its_facts(measured):
    assert measured["prompts"] >= 0.99
    assert measured["held_out_paraphrases"] >= 0.8


def test_the_figures_it_ships_with_are_true(measured):
    figures = json.loads((factlm.model_directory() / "training.json").read_text())
    assert figures["recall"] == pytest.approx(measured, abs=0.002)
    assert 1_000_000 <= figures["parameters"] <= 2_000_000


def test_it_does_not_say_what_is_false(shipped, tokenizer):
    asked = [(f.prompt.format(f.subject), f.target_new) for f in build_world().facts[:128]]
    assert known(shipped[0], tokenizer, asked).mean() < 0.02


def test_tokens(shipped):
    tokenizer = shipped[1]
    assert tokenizer.is_fast
    for fact in build_world().facts:
        prompt = fact.prompt.format(fact.subject)
        encoded = tokenizer(prompt, return_offsets_mapping=True)
        assert tokenizer.decode(encoded["input_ids"]) == prompt
        start = fact.prompt.index("{}")
        inside = [
            begin >= start and end <= start + len(fact.subject)
            for begin, end in encoded["offset_mapping"]
        ]
        assert sum(inside) >= 2
    assert tokenizer("Vera Holm")["input_ids"][0] != tokenizer.eos_token_id


def test_the_corpus_fits_the_context(shipped):
    model, tokenizer = shipped
    lengths = [len(ids) for ids in tokenizer(corpus_lines(), truncation=False)["input_ids"]]
    assert sum(lengths) >= 100_000
    assert np.mean(np.array(lengths) > model.config.context_length) < 0.01


def corpus_lines():
    return factlm.corpus_path().read_text().splitlines()


def test_torch_computes_the_same_logits(shipped):
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM

    model, tokenizer = shipped
    theirs = AutoModelForCausalLM.from_pretrained(factlm.model_directory()).eval()
    tokens = np.array([tokenizer("The mother tongue of Vera Holm is")["input_ids"]])
    with torch.no_grad():
        expected = theirs(torch.tensor(tokens)).logits.numpy()
    np.testing.assert_allclose(model(tokens), expected, atol=2e-4)
