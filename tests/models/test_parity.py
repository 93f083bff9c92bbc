"""Every family against torch: outputs, and every layer's keys at every token, in padded batches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kis_jax.checkpoints.loading import load_model
from tests import golden
from tests.golden.cases import CASES

# What bfloat16, which has 8 bits, has been measured to lose in one model of each structure: the
# largest and the mean error of outputs, then of keys, as shares of their largest value. Machines
# sum in other orders, so up to twice as much passes.
BFLOAT16_ERRORS = {
    "gpt2_untied": (0.0105, 0.0020, 0.0097, 0.0009),
    "gptj": (0.0088, 0.0014, 0.0104, 0.0008),
    "gpt_neox_parallel": (0.0101, 0.0019, 0.0109, 0.0008),
    "llama_llama3": (0.0168, 0.0028, 0.0123, 0.0008),
    "qwen3": (0.0227, 0.0033, 0.0200, 0.0007),
    "gemma2": (0.0310, 0.0035, 0.0176, 0.0007),
    "gemma3": (0.0199, 0.0021, 0.0095, 0.0005),
    "olmo2": (0.0296, 0.0033, 0.0083, 0.0004),
    "phi3_longrope": (0.0229, 0.0028, 0.0098, 0.0007),
    "roberta": (0.0107, 0.0019, 0.0074, 0.0007),
    "deberta_v2": (0.0124, 0.0016, 0.0146, 0.0006),
}


@jax.jit
def outputs_and_keys(model, tokens, mask):
    return model(tokens, mask, tap=lambda keys, mask: keys)


def assert_equal(model, tokens, mask, outputs, keys, *routes):
    found, found_keys = outputs_and_keys(model, jnp.asarray(tokens), jnp.asarray(mask))
    if routes:
        found_keys, keys = assert_routes_equal(found_keys, keys, *routes, mask)
    assert jnp.isfinite(found).all() and jnp.isfinite(found_keys).all(), "at padding too"
    np.testing.assert_allclose(found_keys[:, mask], keys[:, mask], rtol=0, atol=1e-5)
    if outputs is not None:
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(found[mask], outputs[mask], rtol=0, atol=1e-5)


def assert_routes_equal(found, keys, experts, gates, mask):
    """Experts and gates of each token; the keys of both, those of a token in one order."""
    order, others = np.argsort(found.experts), np.argsort(experts)

    def taken(values, order):
        return np.take_along_axis(np.asarray(values), order, -1)[:, mask]

    np.testing.assert_array_equal(taken(found.experts, order), taken(experts, others))
    np.testing.assert_allclose(taken(found.gates, order), taken(gates, others), rtol=0, atol=1e-5)
    return (
        np.take_along_axis(np.asarray(values), order[..., None], -2)
        for values, order in ((found.keys, order), (keys, others))
    )


def stored(name):
    with np.load(golden.DIRECTORY / name / "outputs.npz") as arrays:
        names = ("tokens", "mask", "outputs", "keys", "experts", "gates")
        return [arrays[key] for key in names if key in arrays]


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
    outputs, *keys = make_golden.torch_outputs(torch_model, tokens, mask)
    model = load_model(tmp_path)
    # Saved without its head, a decoder with a tied one has logits here and none there.
    headless = case.bare and model.config.causal
    assert_equal(model, tokens, mask, None if headless else outputs, *keys)


@pytest.mark.parametrize("name", BFLOAT16_ERRORS)
def test_bfloat16_loses_what_it_is_known_to(name):
    tokens, mask, outputs, keys = stored(name)
    model = load_model(golden.DIRECTORY / name, dtype=jnp.bfloat16)
    found, found_keys = outputs_and_keys(model, jnp.asarray(tokens), jnp.asarray(mask))
    assert found.dtype == jnp.float32 and found_keys.dtype == jnp.bfloat16
    errors = []
    for ours, theirs in ((found[mask], outputs[mask]), (found_keys[:, mask], keys[:, mask])):
        shares = np.abs(np.asarray(ours, np.float32) - theirs) / np.abs(theirs).max()
        errors += [shares.max(), shares.mean()]
    assert np.all(np.array(errors) < 2 * np.array(BFLOAT16_ERRORS[name])), errors
