"""The head over choices against torch's: logits, loss and every parameter's gradient."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from kis_jax.checkpoints.multiple_choice import load_multiple_choice, save_multiple_choice
from tests import golden
from tests.golden.cases import CHOICE_CASES

STORED = golden.DIRECTORY / "multiple_choice"


def loss(model, arrays):
    logits = model(arrays["tokens"], arrays["mask"], arrays["types"])
    chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), arrays["labels"][:, None], axis=1)
    return -jnp.mean(chosen), logits


def assert_equal(directory, arrays, gradients, tmp_path):
    model, fresh = load_multiple_choice(directory)
    assert fresh == ()
    step = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (found, logits), gradient = step(model, arrays)
    np.testing.assert_allclose(logits, arrays["logits"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(found, arrays["loss"], rtol=0, atol=1e-5)
    config = json.loads((directory / "config.json").read_text())
    save_multiple_choice(gradient, tmp_path / "gradient", config, companions=None)
    ours = load_file(tmp_path / "gradient" / "model.safetensors")
    assert ours.keys() == gradients.keys()
    for name, theirs in gradients.items():
        np.testing.assert_allclose(ours[name], theirs, rtol=0, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("name", CHOICE_CASES)
def test_equals_what_torch_has_computed(name, tmp_path):
    with np.load(STORED / name / "outputs.npz") as arrays:
        arrays = dict(arrays)
    gradients = load_file(STORED / name / "gradient.safetensors")
    assert_equal(STORED / name, arrays, gradients, tmp_path)


@pytest.mark.parametrize(
    "name", ["roberta", "deberta_v2_own_projections", "deberta_v2_from_position"]
)
def test_equals_the_torch_that_is_installed(name, tmp_path):
    pytest.importorskip("torch")
    from scripts import make_golden

    arrays, gradients = make_golden.write_choices(name, tmp_path / name, seed=1)
    assert_equal(tmp_path / name, arrays, gradients, tmp_path)


@pytest.mark.parametrize("name", CHOICE_CASES)
def test_torch_reads_what_is_saved(name, tmp_path):
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForMultipleChoice

    model, _ = load_multiple_choice(STORED / name)
    model.classifier.bias[...] += 1.0
    config = json.loads((STORED / name / "config.json").read_text())
    save_multiple_choice(model, tmp_path, config, companions=None)
    theirs, told = AutoModelForMultipleChoice.from_pretrained(tmp_path, output_loading_info=True)
    assert not told["missing_keys"] and not told["unexpected_keys"]
    assert theirs.config.architectures == [type(theirs).__name__]
    with np.load(STORED / name / "outputs.npz") as arrays, torch.no_grad():
        inputs = {
            "input_ids": torch.tensor(arrays["tokens"], dtype=torch.long),
            "attention_mask": torch.tensor(arrays["mask"]).long(),
        }
        if name != "distilbert":
            inputs["token_type_ids"] = torch.tensor(arrays["types"], dtype=torch.long)
        logits = theirs.eval()(**inputs).logits.numpy()
        np.testing.assert_allclose(logits, arrays["logits"] + 1.0, rtol=0, atol=1e-5)


def test_a_head_that_is_not_there_is_made_and_told():
    model, fresh = load_multiple_choice(golden.DIRECTORY / "roberta", seed=3)
    assert "classifier.weight" in fresh and "roberta.pooler.dense.bias" in fresh
    again, _ = load_multiple_choice(golden.DIRECTORY / "roberta", seed=3)
    np.testing.assert_array_equal(model.pooler.kernel[...], again.pooler.kernel[...])
    other, _ = load_multiple_choice(golden.DIRECTORY / "roberta", seed=4)
    assert jnp.any(model.pooler.kernel[...] != other.pooler.kernel[...])


def test_a_decoder_has_no_head_over_choices():
    with pytest.raises(ValueError, match="expected an encoder with a head .* found gpt2; a decod"):
        load_multiple_choice(golden.DIRECTORY / "gpt2_tied")


@pytest.fixture(scope="module")
def small():
    return load_multiple_choice(STORED / "bert")[0]


def test_choices_are_scored_each_for_itself(small, rng):
    """Their order moves with their logits; padding on either side, and further choices, do not."""
    tokens = rng.integers(1, 41, (3, 4, 9))
    mask = np.arange(9) < rng.integers(4, 10, (3, 4, 1))
    small = jax.jit(small)
    logits = np.asarray(small(tokens, mask))
    order = [2, 0, 3, 1]
    np.testing.assert_allclose(small(tokens[:, order], mask[:, order]), logits[:, order], atol=1e-5)
    # Fewer choices, in the same shape: the others are repeated.
    again = [0, 1, 0, 1]
    np.testing.assert_allclose(small(tokens[:, again], mask[:, again]), logits[:, again], atol=1e-5)
    seen = np.zeros((3, 4, 12), bool)
    shifted = np.concatenate([np.zeros((3, 4, 3), int), tokens], axis=2)
    seen[..., 3:] = mask
    np.testing.assert_allclose(small(shifted, seen), logits, atol=1e-5)


def test_wrong_shapes_are_named(small):
    with pytest.raises(ValueError, match=r"tokens: expected shape \(b, c, t\)"):
        small(jnp.zeros((2, 5), int), jnp.ones((2, 5), bool))
    with pytest.raises(ValueError, match="tokens: expected at most 24"):
        small(jnp.zeros((2, 3, 25), int), jnp.ones((2, 3, 25), bool))
