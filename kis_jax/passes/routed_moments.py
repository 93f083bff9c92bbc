"""Second moments of a mixture's experts, in one pass over a corpus, on one device."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from kis_jax.core.arrays.products import mirrored
from kis_jax.core.geometry.routed import routed_second_moment
from kis_jax.core.geometry.second_moment import SecondMoment
from kis_jax.data.batches import Batch
from kis_jax.models import Model
from kis_jax.passes.convergence import Spread
from kis_jax.passes.keys import check_finite
from kis_jax.passes.second_moments import RunningSums


class RoutedMomentPass(RunningSums):
    """One pass over a corpus, as `SecondMomentPass` is, where each layer has several memories.

    Sums are stacked over the experts of the first layer, then of the second, and so on:
    `layers * experts` matrices of gated keys. A count is of the tokens that the expert has read;
    all counts of a layer together are the tokens of the corpus times the experts of a token. Memory
    is that of the sums, in float32 on the device and in float64 on the host, and of one batch.

    Attributes:
      model: whose keys are measured.
      groups: 1; a mixture runs on one device.
      rows: of the second moments, all of them.
      batches: that the sums on the host contain.
      spread: how much the parts differ that have reached the host.
    """

    groups = 1

    def __init__(
        self,
        model: Model,
        start: SecondMoment | None = None,
        *,
        batches: int = 0,
        spread: Spread | None = None,
    ) -> None:
        """Starts from nothing, or from what an earlier part of the pass left; see there."""
        config = model.config
        self.model = model
        self._stack, d = config.num_layers * config.experts_per_layer, config.mlp_width
        self.rows = np.arange(d)
        super().__init__((self._stack, d, d), start, batches, spread)
        self._device = self._empty()

    @property
    def rows_of_hosts(self) -> list[np.ndarray]:
        """All rows, of the one host."""
        return [self.rows]

    def add(self, batch: Batch) -> None:
        """Adds all tokens of a batch that are not padding."""
        self._device = _add(self._device, self.model, batch.tokens, batch.mask)
        self._added()

    def settle(self) -> None:
        """Adds what is on the device to the sums on the host.

        Raises:
          ValueError: if a sum is not finite, naming the layer.
        """
        if self.settled:
            return
        part = jax.device_get(self._device)
        norms = np.array([float(np.vdot(total, total)) ** 0.5 for total in part.total])
        check_finite(norms.reshape(self.model.config.num_layers, -1), "second moments")
        for total, own in zip(self._host.total, part.total, strict=True):
            total += np.asarray(mirrored(own))  # to the last bit: one triangle is saved
        self._host.count[...] += part.count
        self.spread = self.spread.add(norms, int(part.count.max()))
        self.batches += self._pending
        self._pending, self._device = 0, self._empty()

    def whole(self) -> SecondMoment:
        """The second moments so far: all are on the one host."""
        return self.result()

    def _empty(self) -> SecondMoment:
        d = len(self.rows)
        return SecondMoment(
            jnp.zeros((self._stack, d, d), jnp.float32), jnp.zeros(self._stack, jnp.int32)
        )


@functools.partial(jax.jit, donate_argnums=0)
def _add(running: SecondMoment, model: Model, tokens: Array, mask: Array) -> SecondMoment:
    experts = model.config.experts_per_layer
    _, batch = model(tokens, mask, tap=functools.partial(routed_second_moment, experts=experts))
    return running.merge(jax.tree.map(jnp.concatenate, batch))
