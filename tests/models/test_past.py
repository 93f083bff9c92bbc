"""Layers run in parts, and on top of what attention kept of earlier tokens, in every family."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from kis_jax.checkpoints.loading import load_model
from kis_jax.models import Decoder, Past
from kis_jax.models.families import gpt2
from tests import golden

# One of each structure.
NAMES = ["gpt2_untied", "gptj", "gpt_neox_in_turn", "llama_dynamic", "mistral", "qwen3"]
NAMES += ["gemma2", "gemma3", "phi3_longrope"]


def stored(name):
    model = load_model(golden.DIRECTORY / name)
    with np.load(golden.DIRECTORY / name / "outputs.npz") as arrays:
        mask = arrays["mask"]
        rows = mask.all(axis=1) | (mask[:, 0] & (np.diff(mask, axis=1).sum(axis=1) <= 1))
        assert rows.any()
        return model, *(jnp.asarray(arrays[key][rows]) for key in ("tokens", "mask", "outputs"))


@pytest.mark.parametrize("name", NAMES)
def test_tokens_on_top_of_a_past_equal_one_pass(name):
    """The past ends at another token of each text, the rest starts after padding."""
    model, tokens, mask, outputs = stored(name)
    b, t = tokens.shape
    ends = 3 + np.arange(b) % 4
    upper = range(1, model.config.num_layers)

    @jax.jit
    def both(model, tokens, mask):
        # The whole texts, so that rotations that depend on their length are the same.
        x, _ = model.run(model.embed(tokens, mask), mask, layers=range(1))
        _, whole = model.run(x, mask, layers=upper, watch=lambda glimpse: glimpse.past)
        past = jax.tree.map(lambda kept: kept[:, :, : ends.max()], whole)
        earlier = jnp.arange(ends.max()) < ends[:, None]
        places = ends[:, None] + jnp.arange(t - ends.min())
        rows, inside = jnp.arange(b)[:, None], jnp.minimum(places, t - 1)
        later = mask[rows, inside] & (places < t)
        stream, _ = model.run(
            x[rows, inside], jnp.concat([earlier, later], axis=1), layers=upper, past=past
        )
        return model.finish(stream), places, later

    found, places, later = jax.tree.map(np.asarray, both(model, tokens, mask))
    for row in range(b):
        here = later[row]
        assert here.sum() == int(mask[row].sum()) - ends[row]
        np.testing.assert_allclose(
            found[row, here], outputs[row, places[row, here]], rtol=0, atol=1e-5
        )


@pytest.mark.parametrize("name", ["gpt2_tied", "gemma2", "gptj"])
def test_an_embedding_counts_positions_from_the_past_on(name):
    model, tokens, mask, _ = stored(name)
    whole = model.embed(tokens, mask)
    np.testing.assert_array_equal(model.embed(tokens[:, 4:], mask), whole[:, 4:])


def test_a_gradient_through_some_layers_copies_no_parameters():
    """Neither those of the layers that run, nor of all: what is held is of one layer."""
    config = gpt2.read_config(dict(vocab_size=11, n_positions=8, n_embd=64, n_layer=8, n_head=2))
    model = Decoder(config, rngs=nnx.Rngs(0))
    mask = jnp.ones((1, 2), bool)

    def total(x, model):
        return jnp.sum(model.run(x, mask, layers=range(1, 8))[0] ** 2)

    program = jax.jit(jax.grad(total)).lower(jnp.ones((1, 2, 64)), model).compile()
    temporary = program.memory_analysis().temp_size_in_bytes
    one_layer = sum(leaf.nbytes for leaf in jax.tree.leaves(model.blocks)) // 8
    assert temporary < 3 * one_layer


def test_a_past_is_of_the_layers_that_run():
    model, tokens, mask, _ = stored("gpt2_tied")
    x = model.embed(tokens, mask)
    _, past = model.run(x, mask, layers=range(1, 3), watch=lambda glimpse: glimpse.past)
    assert isinstance(past, Past)
    b, t = tokens.shape
    assert past.keys.shape == past.values.shape == (2, b, t, 3, 4)
