import itertools

import jax
import numpy as np
import pytest
from flax import nnx

from kis_jax.factlm.training import Size, fit
from kis_jax.models import Decoder
from kis_jax.models.families import gpt2

# So many epochs that the loss is well below that of guessing from wherever the weights start.
SMALL = Size(width=8, num_layers=2, num_heads=2, learning_rate=1e-2, epochs=20)
TEXTS = [[1, 2, 3, 4, 5], [2, 3, 4, 5, 6, 7], [3, 4, 5]] * 4


def untrained():
    config = {"vocab_size": 8, "n_positions": 8, "n_embd": 8, "n_layer": 2, "n_head": 2}
    return Decoder(gpt2.read_config(config), rngs=nnx.Rngs(0))


def trained(seed):
    lines = []
    with jax.numpy_dtype_promotion("standard"):  # optax mixes its dtypes
        model, loss = fit(untrained(), TEXTS, SMALL, seed, lines.append)
    assert len(lines) == SMALL.epochs
    return jax.tree.map(np.asarray, model), loss


@pytest.fixture(scope="module")
def first():
    return trained(seed=3)


def test_loss_falls(first):
    assert first[1] < 0.8 * np.log(8)


def test_the_same_seed_gives_the_same_weights(first):
    again = trained(seed=3)
    jax.tree.map(np.testing.assert_array_equal, again[0], first[0])


def test_one_rule_for_all_widths_keeps_the_shipped_one():
    shipped = Size.of_width(128)
    assert (shipped.num_heads, shipped.learning_rate, shipped.epochs) == (4, 1.5e-3, 14)
    sizes = [Size.of_width(width) for width in (64, 96, 128, 192, 256, 384)]
    for small, large in itertools.pairwise(sizes):
        assert large.learning_rate < small.learning_rate and large.epochs < small.epochs
        assert large.learning_rate**2 * large.width == pytest.approx(2.88e-4, rel=0.02)
    with pytest.raises(ValueError, match="width: expected a multiple of 32, found 100"):
        Size.of_width(100)
