import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kis_jax.checkpoints.loading import load_model
from kis_jax.passes.scores.generation import _continue, generate
from kis_jax.passes.targets.context_prefixes import context_prefixes
from tests import golden

PROMPTS = ["Vera Holm", "The birthplace of Tomas Corvin is", "Question: who wrote", "In"]


@pytest.mark.parametrize("name", ["gptj", "gemma2"])
def test_greedy_equals_the_whole_model_at_each_token(name, rng):
    """With prompts of different lengths, padded."""
    model = load_model(golden.DIRECTORY / name)
    lengths = np.array([2, 7, 4])
    tokens = rng.integers(0, model.config.vocab_size, (3, 7)).astype(np.int32)
    mask = np.arange(7) < lengths[:, None]
    found = np.asarray(
        _continue(
            model, tokens, mask, np.arange(3, dtype=np.uint32), jnp.uint32(0), num_tokens=5, top_k=1
        )
    )
    whole = jax.jit(lambda tokens: model(tokens))
    for row, length in enumerate(lengths):
        text = np.zeros((1, 12), np.int32)
        text[0, :length] = tokens[row, :length]
        for place in range(length, length + 5):
            text[0, place] = np.argmax(whole(text)[0, place - 1])
        np.testing.assert_array_equal(found[row], text[0, length : length + 5])


def test_the_same_seed_gives_the_same_text_whatever_stands_beside(embedded):
    first = generate(*embedded, PROMPTS, num_tokens=8, seed=3)
    assert first == generate(*embedded, PROMPTS, num_tokens=8, seed=3)
    assert first[:1] == generate(*embedded, PROMPTS[:1], num_tokens=8, seed=3)
    assert first != generate(*embedded, PROMPTS, num_tokens=8, seed=4)


def test_sampling_takes_only_the_likeliest(embedded):
    model, tokenizer = embedded
    best = jax.lax.top_k(model(jnp.array([tokenizer("The")["input_ids"]]))[0, -1], 3)[1]
    allowed = {tokenizer.decode([token]) for token in np.asarray(best)}
    found = set(generate(model, tokenizer, 60 * ["The"], num_tokens=1, top_k=3))
    assert found <= allowed and len(found) > 1


def test_prefixes_of_both_conventions(embedded):
    rome = context_prefixes(*embedded, convention="rome")
    assert rome == context_prefixes(*embedded, convention="rome") and len(rome) == 21
    assert rome != context_prefixes(*embedded, convention="rome", seed=1)
    memit = context_prefixes(*embedded, convention="memit")
    words = ("", "The", "Therefore", "Because", "I", "You")
    assert all(text.startswith(word) for text, word in zip(memit, words, strict=True))
    assert all("{" not in text and "\n" not in text for text in rome + memit)


def test_what_cannot_be_generated(embedded):
    model, tokenizer = embedded
    encoder = load_model(golden.DIRECTORY / "bert")
    with pytest.raises(ValueError, match="expected a decoder"):
        generate(encoder, tokenizer, ["a"], num_tokens=1)
    with pytest.raises(ValueError, match="top_k: expected 1 to 2048"):
        generate(model, tokenizer, ["a"], num_tokens=1, top_k=0)
    with pytest.raises(ValueError, match="num_tokens: expected at least 1"):
        generate(model, tokenizer, ["a"], num_tokens=0)
    with pytest.raises(ValueError, match="prompt 'a b': .* leave room for 95"):
        generate(model, tokenizer, ["a b"], num_tokens=95)
    with pytest.raises(ValueError, match="prompt '': expected at least one token"):
        generate(model, tokenizer, [""], num_tokens=1)
    with pytest.raises(ValueError, match="convention: expected one of rome, memit"):
        context_prefixes(model, tokenizer, convention="emmet")
    assert generate(model, tokenizer, [], num_tokens=1) == []
