"""Second moments of keys for all layers, in one pass over a corpus, on any number of devices."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from transformers import PreTrainedTokenizerFast

from kis_jax.core.arrays.bands import band, band_width, rows_of_band
from kis_jax.core.geometry.second_moment import SecondMoment
from kis_jax.data.batches import Batch, fill_batches
from kis_jax.data.batches import token_budget as budget_of
from kis_jax.data.corpora import tokenize_corpus
from kis_jax.models import Model
from kis_jax.models.sharding import DATA, MODEL, make_mesh, mesh_of
from kis_jax.passes.convergence import Spread
from kis_jax.passes.dealing import dealt, gather_rows
from kis_jax.passes.hosts.distributed import share
from kis_jax.passes.keys import check_finite

# Batches summed on devices in float32 before they are added to the float64 sums on the hosts:
# so few that rounding stays at some 1e-7, so many that the transfer costs nothing.
_BATCHES_ON_DEVICES = 32
_BANDS = PartitionSpec(None, DATA, MODEL, None)


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
      Stacked over layers: NumPy float64, and int64 counts; of a mixture over layers and, within,
      experts.

    Raises:
      ValueError: if keys are not finite.

    Examples:
      >>> from kis_jax import load
      >>> model, tokenizer = load("factlm")
      >>> second_moments(model, tokenizer, ["A line of text.", "And another one."]).total.shape
      (6, 512, 512)
    """
    running: Any = SecondMomentPass(model) if model.config.experts is None else _routed(model)
    budget = running.groups * budget_of(model.config) if token_budget is None else token_budget
    tokens = tokenize_corpus(texts, tokenizer, context_length=model.config.context_length)
    for batch in fill_batches(tokens, model.config, token_budget=budget):
        running.add(batch)
    return running.whole()


def _routed(model: Model) -> RunningSums:
    from kis_jax.passes.routed_moments import RoutedMomentPass  # which imports this module

    return RoutedMomentPass(model)


class RunningSums:
    """Sums of a pass: in float32 on devices for some batches, in float64 on the host thereafter.

    Attributes:
      batches: that the sums on the host contain.
      spread: how much the parts differ that have reached the host.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        start: SecondMoment | None,
        batches: int,
        spread: Spread | None,
    ) -> None:
        """Starts from nothing, or from what an earlier part of the pass left on this host."""
        total: Any = np.zeros(shape)
        count: Any = np.zeros(shape[0], np.int64)
        if start is not None:
            for index in range(shape[0]):  # one at a time, as they may be read from disk
                total[index] = start.total[index]
            count += start.count
        self._host = SecondMoment(total, count)
        self.batches, self.spread = batches, Spread.zeros(shape[0]) if spread is None else spread
        self._pending = 0

    def settle(self) -> None:
        """Adds what is on the devices to the sums on the host."""
        raise NotImplementedError

    def _added(self) -> None:
        """Notes one more batch on the devices."""
        self._pending += 1
        # The first parts are small ones, so that their spread is known soon.
        if self._pending >= min(_BATCHES_ON_DEVICES, 2 ** (self.spread.parts // 4)):
            self.settle()

    @property
    def settled(self) -> bool:
        """Whether all sums are on the hosts: where a pass is saved, to go on to the same bits."""
        return not self._pending

    @property
    def part(self) -> SecondMoment:
        """This host's rows of the sums on the hosts; not a copy."""
        return self._host

    def result(self) -> SecondMoment:
        """This host's rows of the second moments so far: NumPy float64, and int64 counts.

        Not a copy: what is added later is added to it. Every host must ask.

        Raises:
          ValueError: if a sum is not finite, naming the layer; on every host.
        """
        self.settle()
        return self._host


class SecondMomentPass(RunningSums):
    """One pass over a corpus: second moments of all layers, fed batch by batch.

    Texts are spread over the `data` axis of the model's mesh, and the rows of all sums over
    `model`; one device is a mesh of one. Each group of devices sums its texts in float32, as
    bands (see `core.arrays.bands`), with no word to the other groups. Every 32 batches, more often
    at first, these sums are added up over the groups, layer by layer, and each host adds those rows
    to its float64 sums that its devices hand it: it never has the others. On many hosts each feeds
    it the same batches. Memory is that of the sums and of one batch, however long the corpus.

    Attributes:
      model: whose keys are measured.
      groups: of devices, each with texts of its own.
      rows: `(r,)`, this host's rows of the second moments; all of them where it is alone.
      rows_of_hosts: those of each host.
      batches: that the sums on the hosts contain.
      spread: how much the parts differ that have reached the hosts.

    Examples:
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
        *,
        batches: int = 0,
        spread: Spread | None = None,
    ) -> None:
        """Starts from nothing, or from what an earlier part of the pass left on this host.

        Args:
          model: whose keys are measured.
          start: the sums of the earlier part, its rows those of this host, in their order.
          batches: that the earlier part contains.
          spread: of the parts that `start` was summed from.
        """
        self.model, self._mesh = model, mesh_of(model) or _mesh_of_one(model)
        self.groups = self._mesh.shape[DATA]
        layers, d = model.config.num_layers, model.config.mlp_width
        self._layout = NamedSharding(self._mesh, _row_spec(self._mesh, d))
        self.rows_of_hosts = _rows_of_hosts(self._layout, d)
        self.rows = self.rows_of_hosts[jax.process_index()]
        super().__init__((layers, len(self.rows), d), start, batches, spread)
        self._bands, self._tokens = self._empty(), 0

    def add(self, batch: Batch) -> None:
        """Adds all tokens of a batch that are not padding."""
        texts = (dealt(array, self._mesh) for array in (batch.tokens, batch.mask))
        self._bands = _add(self._bands, self.model, *texts, mesh=self._mesh)
        self._tokens += int(batch.mask.sum())
        self._added()

    def settle(self) -> None:
        """Adds what is on the devices to the sums on the hosts; every host must call it.

        Raises:
          ValueError: if a sum is not finite, naming the layer; on every host.
        """
        if self.settled:
            return
        norms = np.zeros(len(self._host.total))
        for layer in range(len(norms)):
            rows, norm = _rows(self._bands, layer, mesh=self._mesh, spec=self._layout.spec)
            norms[layer] = norm
            for shard in rows.addressable_shards:
                if shard.replica_id == 0:
                    place = np.searchsorted(self.rows, shard.index[0].start or 0)
                    part = np.asarray(shard.data)
                    self._host.total[layer, place : place + len(part)] += part
        # A key that is not finite shows in the norm of its layer, and so on every host.
        check_finite(norms, "second moments")
        self._host.count[...] += self._tokens
        self.spread = self.spread.add(norms, self._tokens)
        self.batches += self._pending
        self._bands, self._tokens, self._pending = self._empty(), 0, 0

    def sum_of(self, layer: int) -> np.ndarray:
        """All rows of the sum of one layer that the hosts have, `(d, d)`; every host must ask."""
        return gather_rows(np.asarray(self._host.total[layer]), self.rows_of_hosts)

    def mean_of(self, layer: int) -> np.ndarray:
        """C of one layer as far as it is on the hosts, `(d, d)`; every host must ask."""
        return self.sum_of(layer) / int(self._host.count[layer])

    def norms(self) -> np.ndarray:
        """Frobenius norms of the sums on the hosts, `(layers,)`; every host must ask."""
        squares = share([float(np.vdot(total, total)) for total in self._host.total])
        return np.sqrt(np.sum(squares, axis=0))

    def whole(self) -> SecondMoment:
        """All rows of the second moments so far, on every host; every host must ask."""
        part = self.result()
        if len(self.rows_of_hosts) == 1:
            return part
        total = [self.sum_of(layer) for layer in range(len(part.total))]
        return SecondMoment(np.stack(total), part.count)  # pyright: ignore[reportArgumentType]

    def _empty(self) -> Array:
        layers, d = self.model.config.num_layers, self.model.config.mlp_width
        width = band_width(d, self._mesh.shape[MODEL])
        shape = (layers, self.groups, d, width)
        return jnp.zeros(shape, jnp.float32, device=NamedSharding(self._mesh, _BANDS))


@functools.partial(jax.jit, donate_argnums=0, static_argnames="mesh")
def _add(bands: Array, model: Model, tokens: Array, mask: Array, *, mesh: Mesh) -> Array:
    """Bands `(layers, groups, d, width)` with a batch added; nothing passes between groups."""
    of_layer = jax.shard_map(
        lambda keys, mask: band(keys, mask, MODEL)[None],
        mesh=mesh,
        in_specs=(PartitionSpec(DATA, None, MODEL), PartitionSpec(DATA, None)),
        out_specs=PartitionSpec(*_BANDS[1:]),
    )
    _, batch = model(tokens, mask, tap=of_layer)
    return bands + batch


@functools.partial(jax.jit, static_argnames=("mesh", "spec"))
def _rows(bands: Array, layer: int, *, mesh: Mesh, spec: PartitionSpec) -> tuple[Array, Array]:
    """The second moment of one layer over all groups, `(d, d)`, and its Frobenius norm.

    Its rows are laid out by `spec`.
    """

    def rows(bands: Array) -> Array:
        mine = rows_of_band(jax.lax.psum(bands[0], DATA), MODEL)
        if spec[0] == MODEL:
            return mine
        parts = mine.reshape(mesh.shape[DATA], -1, mine.shape[1])
        return parts[jax.lax.axis_index(DATA)]

    over = jax.shard_map(rows, mesh=mesh, in_specs=PartitionSpec(*_BANDS[1:]), out_specs=spec)
    found = over(bands[layer])
    largest = jnp.max(jnp.abs(found))  # or squares may overflow
    return found, largest * jnp.sqrt(jnp.sum(jnp.square(found / jnp.maximum(largest, 1e-30))))


def _mesh_of_one(model: Model) -> Mesh:
    (device,) = jax.tree.leaves(model)[0].devices()
    return make_mesh(devices=[device])


def _row_spec(mesh: Mesh, d: int) -> PartitionSpec:
    """Rows over all devices if they go up, so that each hands its own to its host."""
    return PartitionSpec(MODEL if d % mesh.size else (MODEL, DATA), None)


def _rows_of_hosts(layout: NamedSharding, d: int) -> list[np.ndarray]:
    """The rows that each host takes: of devices that hold the same ones, the first hands them on.

    That is the one whose `replica_id` is 0.
    """
    first: dict[int, tuple[Any, int]] = {}
    for device, index in layout.devices_indices_map((d, d)).items():
        start, stop, _ = index[0].indices(d)
        first.setdefault(start, (device, stop))
    rows: list[list[int]] = [[] for _ in range(jax.process_count())]
    for start, (device, stop) in first.items():
        rows[device.process_index].extend(range(start, stop))
    return [np.array(sorted(held), int) for held in rows]
