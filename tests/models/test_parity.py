"""Every family against torch: outputs, and every layer's keys at every token, in padded batches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kis_jax.checkpoints.loading import load_model
from tests import golden
from tests.golden.cases import CASES

# bfloat16 has 8 bits, and up to four layers to lose some of them: the largest and the mean error,
# as shares of the largest value.
BFLOAT16_BOUNDS = 0.06, 0.006


@jax.jit
def outputs_and_keys(model, tokens, mask):
    return model(tokens, mask, tap=lambda keys, mask: keys)


def assert_equal(model, tokens, mask, outputs, keys):
    found, found_keys = outputs_and_keys(model, jnp.asarray(tokens), jnp.asarray(mask))
    assert jnp.isfinite(found).all() and jnp.isfinite(found_keys).all(), "at padding too"
    np.testing.assert_allclose(found_keys[:, mask], keys[:, mask], rtol=0, atol=1e-5)
    if outputs is not None:
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(found[mask], outputs[mask], rtol=0, atol=1e-5)


def stored(name):
    with np.load(golden.DIRECTORY / name / "outputs.npz") as arrays:
        return [arrays[key] for key in ("tokens", "mask", "outputs", "keys")]


def test_all_golden_cases_are_stored():
    assert set(golden.NAMES) == {name for name, case in CASES.items() if case.golden}


@pytest.mark.parametrize("name", golden.NAMES)
def test_equals_what_torch_has_computed(name):
    assert_equal(load_model(golden.DIRECTORY / name), *stored(name))


@pytest.mark.parametrize("name", CASES)
def test_equals_the_torch_that_is_installed(name, tmp_path):
    pytest.importorskip("torch")
    from scripts import make_golden

    case = CASES[name]
    torch_model = make_golden.random_model(case, seed=1)
    torch_model.save_pretrained(tmp_path)
    tokens, mask = make_golden.random_batch(case, seed=1)
    outputs, keys = make_golden.torch_outputs(torch_model, tokens, mask)
    model = load_model(tmp_path)
    # Saved without its head, a decoder with a tied one has logits here and none there.
    headless = case.bare and model.config.causal
    assert_equal(model, tokens, mask, None if headless else outputs, keys)


# One for each structure, not for each option.
@pytest.mark.parametrize(
    "name",
    ["gpt2_untied", "gptj", "gpt_neox_parallel", "llama_llama3", "qwen3"]
    + ["gemma2", "gemma3", "olmo2", "phi3_longrope", "roberta"],
)
def test_bfloat16_is_within_its_bounds(name):
    tokens, mask, outputs, keys = stored(name)
    model = load_model(golden.DIRECTORY / name, dtype=jnp.bfloat16)
    found, found_keys = outputs_and_keys(model, jnp.asarray(tokens), jnp.asarray(mask))
    assert found.dtype == jnp.float32 and found_keys.dtype == jnp.bfloat16
    for ours, theirs in ((found[mask], outputs[mask]), (found_keys[:, mask], keys[:, mask])):
        errors = np.abs(np.asarray(ours, np.float32) - theirs) / np.abs(theirs).max()
        assert errors.max() < BFLOAT16_BOUNDS[0] and errors.mean() < BFLOAT16_BOUNDS[1]
