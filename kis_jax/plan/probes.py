"""Texts that an edit should leave alone: their keys and streams, one layer after another."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from kis_jax.core.arrays.precision import HOST
from kis_jax.core.arrays.products import lengths
from kis_jax.core.editing.interference import interference
from kis_jax.core.editing.ledger import Edit
from kis_jax.core.geometry.routed import Routed, concatenated
from kis_jax.data.batches import fill_batches
from kis_jax.models import Model
from kis_jax.passes.keys import as_float32

_PIECE = 256  # tokens of a mixture at once


@dataclasses.dataclass(frozen=True)
class Probe:
    """All tokens of some texts at one layer.

    Attributes:
      keys: `(t, d)` float32, of the layer's memory; of a mixture, a `Routed` of NumPy arrays: those
        of the experts of each token.
      stream_norms: `(t,)` float32, of the residual stream after the layer.
      text: `(t,)` int, which text each token is of.
    """

    keys: Any
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

    def moved(self, edit: Edit, tokens: np.ndarray | None = None) -> np.ndarray:
        """How far an edit moves the values of all tokens, or of some of them, `(t, m)` float64."""
        keys = self.keys if tokens is None else self.keys[tokens]
        if not isinstance(keys, Routed):
            return HOST.run(interference, edit, keys)
        experts = edit.directions.shape[1] // keys.keys.shape[-1]
        # Rows of the whole memory of a few tokens at a time: they are as wide as all experts.
        pieces = [keys[start : start + _PIECE] for start in range(0, max(len(keys), 1), _PIECE)]
        moved = [HOST.run(_routed_interference, edit, piece, experts=experts) for piece in pieces]
        return np.concatenate(moved)

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
            keys.append(jax.tree.map(np.asarray, found)[counted])
            norms.append(np.asarray(length)[counted])
        whole = jax.tree.map(lambda *parts: np.concatenate(parts), *keys)
        yield Probe(whole, np.concatenate(norms), np.concatenate(rows))


@functools.partial(jax.jit, static_argnames="layer")
def _run(model: Model, x: Array, mask: Array, *, layer: int) -> tuple[Array, Any, Array]:
    """The stream after one layer, the layer's keys, and the lengths of the stream."""
    x, keys = model.run(x, mask, layers=range(layer, layer + 1), watch=lambda glimpse: glimpse.keys)
    return x, jax.tree.map(lambda part: as_float32(part[0]), keys), lengths(x.astype(jnp.float32))


def _routed_interference(edit: Edit, keys: Routed, *, experts: int) -> Array:
    return interference(edit, concatenated(keys, experts))
