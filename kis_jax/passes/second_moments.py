"""Second moments of keys for all layers, in one pass over a corpus."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from transformers import PreTrainedTokenizerFast

from kis_jax.core.geometry.second_moment import SecondMoment
from kis_jax.data.batches import Batch, fill_batches
from kis_jax.data.batches import token_budget as budget_of
from kis_jax.data.corpora import tokenize_corpus
from kis_jax.models import Model
from kis_jax.models.sharding import DATA, mesh_of
from kis_jax.passes.convergence import Spread
from kis_jax.passes.keys import check_finite
from kis_jax.passes.sharded_moments import ShardedSecondMomentPass

# Batches summed on the device in float32 before they are added to the float64 sum on the host:
# so few that rounding stays at some 1e-7, so many that the transfer costs nothing.
_BATCHES_ON_DEVICE = 32


def second_moments(
    model: Model,
    tokenizer: PreTrainedTokenizerFast,
    texts: Iterable[str],
    *,
    token_budget: int | None = None,
) -> SecondMoment:
    """Second moments of all layers over texts, in memory; `kis scan` keeps those of long runs.

    Args:
      model: whose keys are measured; on a mesh, its devices share the texts and the sums. On
        many hosts each calls this with the same texts, and gets the whole.
      tokenizer: of the model.
      texts: ordinary ones; each is cut at the model's context.
      token_budget: the most tokens run at once; chosen from memory if None.

    Returns:
      Stacked over layers: NumPy float64, and int64 counts.

    Raises:
      ValueError: if keys are not finite.

    Example:
      >>> from kis_jax import load
      >>> model, tokenizer = load("factlm")
      >>> second_moments(model, tokenizer, ["A line of text.", "And another one."]).total.shape
      (6, 512, 512)
    """
    mesh = mesh_of(model)
    running = SecondMomentPass(model) if mesh is None else ShardedSecondMomentPass(model)
    groups = 1 if mesh is None else mesh.shape[DATA]
    budget = groups * budget_of(model.config) if token_budget is None else token_budget
    tokens = tokenize_corpus(texts, tokenizer, context_length=model.config.context_length)
    for batch in fill_batches(tokens, model.config, token_budget=budget):
        running.add(batch)
    return running.result() if isinstance(running, SecondMomentPass) else running.whole()


@dataclasses.dataclass(frozen=True)
class Pending:
    """What is summed on the device and not yet on the host.

    Attributes:
      moments: stacked over layers, NumPy float32.
      batches: how many they contain.
    """

    moments: SecondMoment
    batches: int


class SecondMomentPass:
    """One pass over a corpus: second moments of all layers, fed batch by batch.

    Sums run in float32 on the device and in float64 on the host. Memory is that of the sums,
    `layers * d * d`, and of one batch, however long the corpus.

    Attributes:
      model: whose keys are measured.
      spread: how much the parts differ that have reached the host.

    Example:
      >>> from kis_jax import load
      >>> from kis_jax.data.batches import fill_batches
      >>> model, tokenizer = load("factlm")
      >>> running = SecondMomentPass(model)
      >>> texts = tokenizer(["A line of text.", "And another one."])["input_ids"]
      >>> for batch in fill_batches(texts, model.config, token_budget=256):
      ...     running.add(batch)
      >>> int(running.result().count[0]) == sum(map(len, texts))
      True
    """

    def __init__(
        self,
        model: Model,
        start: SecondMoment | None = None,
        pending: Pending | None = None,
        spread: Spread | None = None,
    ) -> None:
        """Starts from nothing, or where an earlier part of the pass ended.

        Args:
          model: whose keys are measured.
          start: the sums of the earlier part on the host; see `state`.
          pending: its sums on the device that `start` does not contain.
          spread: of the parts that `start` was summed from.
        """
        layers, d = model.config.num_layers, model.config.mlp_width
        self.model = model
        total: Any = np.zeros((layers, d, d))
        count: Any = np.zeros(layers, np.int64)
        if start is not None:
            total += start.total
            count += start.count
        self._host = SecondMoment(total, count)
        self.spread = Spread.zeros(layers) if spread is None else spread
        self._empty = lambda: jax.vmap(lambda _: SecondMoment.zeros(d))(jnp.arange(layers))
        self._device, self._pending = self._empty(), 0
        if pending is not None:
            self._device = jax.tree.map(jnp.asarray, pending.moments)
            self._pending = pending.batches

    def add(self, batch: Batch) -> None:
        """Adds all tokens of a batch that are not padding."""
        self._device = _add(self._device, self.model, batch.tokens, batch.mask)
        self._pending += 1
        # The first parts are small ones, so that their spread is known soon.
        if self._pending >= min(_BATCHES_ON_DEVICE, 2 ** (self.spread.parts // 4)):
            self._flush()

    def state(self) -> tuple[SecondMoment, Pending | None]:
        """All that another pass needs to go on from here, to the same bits.

        Returns:
          The sums on the host, not a copy of them, and those on the device, None if there are none.
        """
        if not self._pending:
            return self._host, None
        return self._host, Pending(jax.tree.map(np.asarray, self._device), self._pending)

    def result(self) -> SecondMoment:
        """The second moments so far, stacked over layers: NumPy float64, and int64 counts.

        Not a copy: what is added later is added to it.

        Raises:
          ValueError: if a sum is not finite, naming the layer.
        """
        self._flush()
        return self._host

    def _flush(self) -> None:
        if not self._pending:
            return
        part = jax.tree.map(np.asarray, self._device)
        # A key that is not finite shows on the diagonal, the sums of squares.
        check_finite(np.diagonal(part.total, axis1=1, axis2=2), "second moments")
        norms = np.asarray(_norms(self._device.total))
        self.spread = self.spread.add(norms, int(part.count[0]))
        self._host.total[...] += part.total
        self._host.count[...] += part.count
        self._device, self._pending = self._empty(), 0


@jax.jit
def _norms(total: Array) -> Array:
    """Frobenius norms of stacked matrices."""
    return jnp.sqrt(jnp.sum(jnp.square(total), axis=(1, 2)))


@functools.partial(jax.jit, donate_argnums=0)
def _add(running: SecondMoment, model: Model, tokens: Array, mask: Array) -> SecondMoment:
    empty = SecondMoment.zeros(model.config.mlp_width)
    _, batch = model(tokens, mask, tap=empty.update)
    return running.merge(batch)
