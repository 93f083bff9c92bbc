import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kis_jax.checkpoints.loading import load_model
from kis_jax.data.continuations import Continuation
from kis_jax.passes.scores import scoring
from kis_jax.passes.scores.scoring import score
from tests import golden


@pytest.fixture(scope="module")
def model():
    return load_model(golden.DIRECTORY / "gpt2_untied")


@pytest.fixture
def continuations(rng):
    found = []
    for length in rng.choice([2, 7, 8, 23, 24], 40):
        text = rng.integers(0, 61, length).tolist()
        found.append(Continuation(text, int(rng.integers(1, length))))
    return [*found, *found[:7]]


@jax.jit
def logits_of(model, tokens):
    return model(tokens)


def slowly(model, continuation):
    """Mean log-probability and whether each token leads, token by token, in float64."""
    text = continuation.tokens
    padded = jnp.array([text + [0] * (24 - len(text))])  # what follows a token does not change it
    logits = np.asarray(logits_of(model, padded), np.float64)[0]
    found, leads = [], []
    for place in range(continuation.start, len(text)):
        before = logits[place - 1]
        found.append(before[text[place]] - np.log(np.sum(np.exp(before))))
        leads.append(int(np.argmax(before)) == text[place])
    return np.mean(found), all(leads), len(found)


@pytest.mark.parametrize(("budget", "most_logits"), [(1, 2**24), (100, 61), (4096, 2**24)])
def test_equals_one_text_at_a_time(model, continuations, budget, most_logits, monkeypatch):
    monkeypatch.setattr(scoring, "_MOST_LOGITS", most_logits)
    scoring._score.clear_cache()
    found = score(model, continuations, token_budget=budget)
    expected = [slowly(model, continuation) for continuation in continuations]
    means, leads, lengths = zip(*expected, strict=True)
    np.testing.assert_allclose(found.log_probabilities, means, atol=2e-6)
    assert found.log_probabilities.dtype == np.float64
    assert found.num_tokens.tolist() == list(lengths)
    assert found.recalled.tolist() == list(leads)


def test_greedy_decoding_is_recalled_and_nothing_else(model):
    tokens = [3, 1, 4]
    for _ in range(3):
        logits = logits_of(model, jnp.array([tokens + [0] * (24 - len(tokens))]))
        tokens.append(int(jnp.argmax(logits[0, len(tokens) - 1])))
    wrong = [*tokens[:-1], (tokens[-1] + 1) % 61]
    asked = [Continuation(tokens, 3), Continuation(wrong, 3), Continuation(wrong[:-1], 3)]
    assert score(model, asked, token_budget=64).recalled.tolist() == [True, False, True]


def test_same_continuations_run_once(model, monkeypatch):
    counted = []
    fill = scoring.fill_batches

    def counting(texts, config, *, token_budget):
        counted.append(len(texts))
        yield from fill(texts, config, token_budget=token_budget)

    monkeypatch.setattr(scoring, "fill_batches", counting)
    asked = [Continuation([1, 2, 3], 1), Continuation([1, 2, 3], 2), Continuation([1, 2, 3], 1)]
    found = score(model, asked, token_budget=64)
    assert counted == [2]
    assert found.log_probabilities[0] == found.log_probabilities[2] != found.log_probabilities[1]


def test_none_are_scored_as_none(model):
    assert score(model, [], token_budget=64).log_probabilities.shape == (0,)


def test_encoders_and_broken_weights_are_refused(model):
    encoder = load_model(golden.DIRECTORY / "bert")
    with pytest.raises(ValueError, match="model: expected a decoder.* found bert"):
        score(encoder, [Continuation([1, 2], 1)], token_budget=64)
    broken = jax.tree.map(lambda array: array * jnp.nan, model)
    with pytest.raises(ValueError, match="expected probabilities, found NaN for 1 of 1"):
        score(broken, [Continuation([1, 2], 1)], token_budget=64)


@pytest.mark.parametrize("name", ["gpt2_untied", "qwen3", "gemma2"])
def test_equals_torch(name, tmp_path):
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM

    theirs = AutoModelForCausalLM.from_pretrained(golden.DIRECTORY / name).eval()
    model = load_model(golden.DIRECTORY / name)
    text = [5, 9, 2, 6, 5, 3, 8]
    with torch.no_grad():
        logits = theirs(torch.tensor([text])).logits[0].double().log_softmax(-1).numpy()
    for start in (1, 4, 6):
        found = score(model, [Continuation(text, start)], token_budget=64)
        expected = np.mean([logits[place - 1, text[place]] for place in range(start, 7)])
        np.testing.assert_allclose(found.log_probabilities[0], expected, atol=1e-5)
