import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kis_jax.checkpoints.loading import load_model
from kis_jax.data.batches import Batch, fill_batches
from kis_jax.data.prompts import Prompt
from kis_jax.passes.keys import fact_keys
from kis_jax.passes.second_moments import SecondMomentPass
from tests import golden, references


@pytest.fixture(scope="module")
def model():
    return load_model(golden.DIRECTORY / "gpt2_tied")


@pytest.fixture
def texts(rng):
    return [rng.integers(0, 61, rng.integers(1, 25)).tolist() for _ in range(40)]


@jax.jit
def all_keys(model, tokens):
    return model(tokens, tap=lambda keys, mask: keys)[1]


def keys_of(model, text):
    """All layers' keys at all tokens of one text, `(layers, t, d)`; what follows it is causal."""
    padded = jnp.array([text + [0] * (24 - len(text))])
    return np.asarray(all_keys(model, padded)[:, 0, : len(text)], np.float64)


def test_keys_equal_one_text_at_a_time(model, texts, rng):
    prompts = [Prompt(text, int(rng.integers(len(text)))) for text in texts]
    keys = fact_keys(model, prompts, token_budget=100)
    assert keys.shape == (3, 40, 20) and keys.dtype == np.float32
    for place, prompt in enumerate(prompts):
        expected = keys_of(model, prompt.tokens)[:, prompt.index]
        np.testing.assert_allclose(keys[:, place], expected, atol=1e-5)


@pytest.mark.parametrize("budget", [1, 64, 4096])
def test_second_moments_equal_the_loop_over_tokens(model, texts, budget):
    running = SecondMomentPass(model)
    for batch in fill_batches(texts, model.config, token_budget=budget):
        running.add(batch)
    result = running.result()
    keys = np.concatenate([keys_of(model, text) for text in texts], axis=1)
    assert result.total.dtype == np.float64
    assert result.count.tolist() == 3 * [sum(map(len, texts))]
    for layer in range(3):
        expected = references.second_moment(keys[layer])
        np.testing.assert_allclose(result.mean[layer], expected, atol=1e-6 * expected.max())


def test_a_pass_goes_on_from_an_earlier_one(model, texts):
    batches = list(fill_batches(texts, model.config, token_budget=64))
    whole, first = SecondMomentPass(model), SecondMomentPass(model)
    for batch in batches:
        whole.add(batch)
    for batch in batches[:5]:
        first.add(batch)
    second = SecondMomentPass(model, first.result())
    for batch in batches[5:]:
        second.add(batch)
    expected = whole.result().total
    np.testing.assert_allclose(second.result().total, expected, atol=1e-6 * expected.max())
    np.testing.assert_array_equal(second.result().count, whole.result().count)


def test_memory_does_not_grow_with_the_corpus(model):
    """However many batches: the arrays alive are those of the sums."""

    def batch():
        return Batch(np.ones((8, 24), np.int32), np.ones((8, 24), bool), tuple(range(8)))

    running = SecondMomentPass(model)
    running.add(batch())
    before = sum(array.nbytes for array in jax.live_arrays())
    for _ in range(100):
        running.add(batch())
    assert sum(array.nbytes for array in jax.live_arrays()) == before


def test_a_number_gone_wrong_names_its_layer(model, texts):
    broken = jax.tree.map(lambda leaf: leaf, model)
    kernel = broken.blocks.mlp.input.kernel
    kernel[...] = kernel[...].at[1].set(jnp.nan)
    with pytest.raises(ValueError, match="keys of the facts: .* in layer 1"):
        fact_keys(broken, [Prompt([1, 2], 1)], token_budget=64)
    running = SecondMomentPass(broken)
    with pytest.raises(ValueError, match="second moments: .* in layer 1"):
        running.add(next(iter(fill_batches(texts, model.config, token_budget=64))))
