"""A head over an encoder that answers multiple-choice questions, one number a choice."""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx
from jax import Array

from kis_jax.models.config import EncoderConfig
from kis_jax.models.encoder import Encoder
from kis_jax.models.mlp import ACTIVATIONS
from kis_jax.models.stack import check_tokens, make_linear, precision


class MultipleChoice(nnx.Module):
    """Reads a question with each of its choices, and gives each a logit.

    All choices go through one encoder; of each, the hidden state of the first token goes through a
    matrix, a non-linearity and a vector. A softmax over the choices of a question makes
    probabilities of the logits. As torch's `AutoModelForMultipleChoice`, without its dropout.

    Examples:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from kis_jax.models.families import bert
      >>> config = bert.read_config(dict(vocab_size=50, hidden_size=8, num_hidden_layers=3,
      ...     num_attention_heads=2, intermediate_size=20, max_position_embeddings=16))
      >>> model = MultipleChoice(Encoder(config, rngs=nnx.Rngs(0)), rngs=nnx.Rngs(1))
      >>> tokens = jnp.arange(60).reshape(2, 5, 6) % 50
      >>> model(tokens, jnp.ones(tokens.shape, bool)).shape
      (2, 5)
    """

    def __init__(self, encoder: Encoder, *, rngs: nnx.Rngs) -> None:
        """Puts a head over an encoder.

        Args:
          encoder: that is taken over, not copied.
          rngs: of the head's parameters, normal with standard deviation 0.02.
        """
        linear = make_linear(encoder.dtype, rngs)
        self.encoder = encoder
        self.pooler = linear(encoder.config.width, encoder.config.width)
        self.classifier = linear(encoder.config.width, 1)

    @property
    def config(self) -> EncoderConfig:
        """Of the encoder."""
        return self.encoder.config

    def __call__(self, tokens: Array, mask: Array, types: Array | None = None) -> Array:
        """The logits of all choices, `(b, c)` float32.

        Args:
          tokens: `(b, c, t)` int: for each of b questions, the question with each of c choices.
          mask: `(b, c, t)` bool, False at padding, on either side.
          types: `(b, c, t)` int, 0 for tokens of the question and 1 for those of the choice; all 0
            if None. An encoder without token types leaves them alone.

        Raises:
          ValueError: if the arrays have not these shapes, or texts are longer than the context.
        """
        if tokens.ndim != 3:
            raise ValueError(
                "tokens: expected shape (b, c, t), questions by choices by tokens, found "
                f"{tokens.shape}"
            )
        b, c, t = tokens.shape
        flat, seen = tokens.reshape(b * c, t), mask.reshape(-1, t).astype(bool)
        check_tokens(flat, seen, self.config)
        kinds = None if types is None else types.reshape(flat.shape)
        x, _ = self.encoder.run(self.encoder.embed(flat, seen, kinds), seen)
        first = jnp.argmax(seen, axis=1)
        pooled = jnp.take_along_axis(x, first[:, None, None], axis=1)[:, 0]
        with precision(self.encoder.dtype):
            pooled = ACTIVATIONS[self.config.choice_activation](self.pooler(pooled))
            return self.classifier(pooled).reshape(b, c).astype(jnp.float32)
