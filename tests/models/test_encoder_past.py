"""An encoder has no past: its tokens all see each other."""

import jax.numpy as jnp
import pytest
from flax import nnx

from kis_jax.models import Encoder
from kis_jax.models.families import bert


def test_keys_and_values_of_earlier_tokens_are_refused():
    config = bert.read_config(
        {"vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2,
         "intermediate_size": 12, "max_position_embeddings": 16}
    )  # fmt: skip
    model = Encoder(config, rngs=nnx.Rngs(0))
    mask = jnp.ones((1, 5), bool)
    x = model.embed(jnp.array([[3, 1, 4, 1, 5]]), mask)
    _, past = model.run(x, mask, watch=lambda glimpse: glimpse.past)
    with pytest.raises(ValueError, match="past: expected None for an encoder"):
        model.run(x, mask, past=past)
