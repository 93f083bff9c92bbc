"""Texts that an edit should leave alone: their keys and streams, one layer after another."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from kis_jax.core.arrays.products import lengths
from kis_jax.data.batches import fill_batches
from kis_jax.models import Model


@dataclasses.dataclass(frozen=True)
class Probe:
    """All tokens of some texts at one layer.

    Attributes:
      keys: `(t, d)` float32, of the layer's memory.
      stream_norms: `(t,)` float32, of the residual stream after the layer.
      text: `(t,)` int, which text each token is of.
    """

    keys: np.ndarray
    stream_norms: np.ndarray
    text: np.ndarray

    def part(self, start: int, stop: int) -> Probe:
        """The texts from one to before another, counted anew from 0."""
        chosen = (self.text >= start) & (self.text < stop)
        return Probe(self.keys[chosen], self.stream_norms[chosen], self.text[chosen] - start)

    def greatest(self, of_tokens: np.ndarray) -> np.ndarray:
        """The greatest of some numbers `(t,)`, or 0, over the tokens of each text, `(texts,)`."""
        most = np.zeros(int(self.text.max(initial=-1)) + 1)
        np.maximum.at(most, self.text, of_tokens)
        return most

    def displacement(self, moved: np.ndarray) -> np.ndarray:
        """How far each text is displaced: the most that any of its tokens is.

        Args:
          moved: `(t, m)`, how far the values of the keys move.

        Returns:
          `(texts,)`: the greatest length of a token's move, in lengths of the stream that it is
          added to. This, and not its length alone, compares between layers: the stream grows
          from layer to layer, and norms after it see directions, not lengths.
        """
        return self.greatest(lengths(moved) / self.stream_norms)


def probe_layers(model: Model, texts: Sequence[list[int]], *, token_budget: int) -> Iterator[Probe]:
    """Runs texts through a model one layer at a time.

    Holds the streams of all texts and the keys of one layer, so that a model of any depth can be
    probed with some thousands of tokens.

    Args:
      model: to be probed.
      texts: token ids of each.
      token_budget: the most tokens run at once, padding included.

    Yields:
      A `Probe` for each layer, from the first to the last; tokens in the order of the batches.

    Raises:
      ValueError: if there are no texts, or one does not fit the model.
    """
    if not texts:
        raise ValueError("texts: expected at least one to be left alone, found none")
    batches = list(fill_batches(texts, model.config, token_budget=token_budget))
    streams = [model.embed(*map(jnp.asarray, (batch.tokens, batch.mask))) for batch in batches]
    rows = [np.repeat(batch.rows, batch.mask.sum(axis=1)[: len(batch.rows)]) for batch in batches]
    for layer in range(model.config.num_layers):
        keys, norms = [], []
        for place, batch in enumerate(batches):
            streams[place], found, length = _run(model, streams[place], batch.mask, layer=layer)
            counted = batch.mask & (np.arange(len(batch.mask)) < len(batch.rows))[:, None]
            keys.append(np.asarray(found)[counted])
            norms.append(np.asarray(length)[counted])
        yield Probe(np.concatenate(keys), np.concatenate(norms), np.concatenate(rows))


@functools.partial(jax.jit, static_argnames="layer")
def _run(model: Model, x: Array, mask: Array, *, layer: int) -> tuple[Array, Array, Array]:
    """The stream after one layer, the layer's keys, and the lengths of the stream."""
    x, keys = model.run(x, mask, layers=range(layer, layer + 1), watch=lambda glimpse: glimpse.keys)
    return x, keys[0].astype(jnp.float32), lengths(x.astype(jnp.float32))
