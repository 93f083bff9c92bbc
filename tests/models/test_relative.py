"""Distances between tokens: their buckets against torch's, and what the model makes of them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kis_jax.checkpoints.loading import load_model
from kis_jax.models.families import FAMILIES
from kis_jax.models.relative import RelativePositions
from tests import golden


def relative(buckets, farthest):
    return RelativePositions(buckets, farthest, True, True, True, True, False)


@pytest.mark.parametrize(
    ("buckets", "farthest", "length"),
    [(256, 512, 512), (32, 128, 300), (6, 24, 24), (320, 1024, 1024), (4, 16, 40)],
)
def test_buckets_are_torchs(buckets, farthest, length):
    torch = pytest.importorskip("torch")
    from transformers.models.deberta_v2.modeling_deberta_v2 import make_log_bucket_position

    distance = torch.arange(1 - length, length)
    theirs = make_log_bucket_position(distance, buckets, farthest).long() + buckets
    ours = relative(buckets, farthest).table(length)
    np.testing.assert_array_equal(ours, torch.clamp(theirs, 0, 2 * buckets - 1).numpy())


def test_buckets_rise_with_distance_and_are_symmetric():
    table = relative(32, 128).table(200)
    assert (np.diff(table) >= 0).all() and np.diff(table).max() == 1
    centred = np.clip(table - 32, -31, 31)  # one row more of those before than of those after
    np.testing.assert_array_equal(centred, -centred[::-1])


@pytest.mark.parametrize("name", ["deberta_v2", "deberta_v3"])
def test_a_text_is_the_same_wherever_its_padding_stands(name):
    """Also with padding between its tokens, which torch has no word for."""
    model = load_model(golden.DIRECTORY / name)
    if model.config.convolution is not None:  # what it mixes are neighbours in the array
        model.config = dataclasses.replace(model.config, convolution=None)
    text = np.arange(5, 12)
    alone = jax.jit(model)(text[None])[0]
    places = np.array([0, 2, 3, 6, 7, 8, 11])
    tokens, mask = np.ones(12, int), np.zeros(12, bool)
    tokens[places], mask[places] = text, True
    spread = jax.jit(model)(jnp.asarray(tokens[None]), jnp.asarray(mask[None]))[0]
    np.testing.assert_allclose(spread[places], alone, rtol=0, atol=1e-5)


def test_the_convolution_belongs_to_the_first_layer_alone():
    """A run of one layer after another is the run of all."""
    model = load_model(golden.DIRECTORY / "deberta_v2")
    tokens, mask = jnp.arange(2, 11)[None], jnp.ones((1, 9), bool)

    @jax.jit
    def both(model):
        x = model.embed(tokens, mask)
        for layer in range(model.config.num_layers):
            x, _ = model.run(x, mask, layers=range(layer, layer + 1))
        return model.finish(x), model(tokens)

    np.testing.assert_allclose(*both(model), rtol=0, atol=1e-6)


SIZES = {
    "vocab_size": 41,
    "hidden_size": 16,
    "intermediate_size": 22,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 24,
    "relative_attention": True,
}


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"pos_att_type": "p2c|p2p"}, "pos_att_type: expected some of c2p, p2c, found p2p"),
        ({"pos_att_type": 3}, r"pos_att_type: expected words joined by \|"),
        ({"norm_rel_ebd": "batch_norm"}, "norm_rel_ebd: expected none or layer_norm"),
        ({"position_buckets": 1}, "position_buckets: expected 2 or more"),
        ({"position_buckets": 64}, "half of them fewer than the 24 distances"),
        ({"position_buckets": 3.5}, "position_buckets: expected int"),
        ({"share_att_key": "yes"}, "share_att_key: expected bool"),
        ({"conv_kernel_size": 3, "conv_groups": 2}, "conv_groups=2"),
        ({"embedding_size": 12}, "embedding_size=12"),
    ],
)
def test_what_is_not_computed_is_refused_by_name(attributes, message):
    with pytest.raises(ValueError, match=message):
        FAMILIES["deberta-v2"].read_config({**SIZES, **attributes})
