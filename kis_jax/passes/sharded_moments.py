"""Second moments of a model that lies over a mesh: no device and no host holds them whole."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from kis_jax.core.arrays.bands import band, band_width, rows_of_band
from kis_jax.core.geometry.second_moment import SecondMoment
from kis_jax.data.batches import Batch
from kis_jax.models import Model
from kis_jax.models.sharding import DATA, MODEL, mesh_of
from kis_jax.passes.dealing import dealt, gather_rows
from kis_jax.passes.keys import check_finite

# As many as on one device: see there.
_BATCHES_ON_DEVICES = 32
_BANDS = PartitionSpec(None, DATA, MODEL, None)


class ShardedSecondMomentPass:
    """One pass over a corpus with a model on a mesh; every host feeds it the same batches.

    Texts are spread over the `data` axis, and the rows of all sums over `model`: each group of
    devices sums its texts in float32, as bands (see `core.bands`), with no word to the other
    groups. Every 32 batches, more often at first, these sums are added up over the groups, layer by
    layer, and each host adds those rows to its float64 sums that its devices hand it: it never has
    the others.

    Attributes:
      model: whose keys are measured.
      rows: `(r,)`, this host's rows of the second moments; all of them where it is alone.
    """

    def __init__(
        self, model: Model, start: SecondMoment | None = None, *, batches: int = 0
    ) -> None:
        """Starts from nothing, or from what an earlier part of the pass left on this host.

        Args:
          model: on a mesh, as `load(..., mesh=mesh)` gives it.
          start: the sums of the earlier part, its rows those of this host, in their order.
          batches: that the earlier part contains.
        """
        mesh = mesh_of(model)
        if mesh is None:
            raise ValueError(
                "model: expected one that lies over a mesh, found one on one device; load it with "
                "a mesh, or use SecondMomentPass"
            )
        self.model, self._mesh = model, mesh
        layers, d = model.config.num_layers, model.config.mlp_width
        self._layout = NamedSharding(mesh, _row_spec(mesh, d))
        self.rows_of_hosts = _rows_of_hosts(self._layout, d)
        self.rows = self.rows_of_hosts[jax.process_index()]
        total: Any = np.zeros((layers, len(self.rows), d))
        count: Any = np.zeros(layers, np.int64)
        if start is not None:
            total += start.total
            count += start.count
        self._host = SecondMoment(total, count)
        self._batches, self._settled = batches, True
        self._tokens = 0
        self._bands = self._empty()

    def add(self, batch: Batch) -> None:
        """Adds all tokens of a batch that are not padding."""
        texts = (dealt(array, self._mesh) for array in (batch.tokens, batch.mask))
        self._bands = _add(self._bands, self.model, *texts, mesh=self._mesh)
        self._tokens += int(batch.mask.sum())
        self._batches += 1
        self._settled = False
        if _settles(self._batches):
            self._flush()

    @property
    def settled(self) -> bool:
        """Whether all sums are on the hosts: where a pass is saved, to go on to the same bits."""
        return self._settled

    def result(self) -> SecondMoment:
        """This host's rows of the second moments so far, stacked over layers.

        NumPy float64 `(layers, r, d)`, and int64 counts; not a copy. Every host must ask.

        Raises:
          ValueError: if a sum is not finite, naming the layer; on every host.
        """
        self._flush()
        return self._host

    def whole(self) -> SecondMoment:
        """All rows of the second moments so far, on every host; every host must ask."""
        part = self.result()
        total = [gather_rows(rows, self.rows_of_hosts) for rows in np.asarray(part.total)]
        return SecondMoment(np.stack(total), part.count)  # pyright: ignore[reportArgumentType]

    def _empty(self) -> Array:
        layers, d = self.model.config.num_layers, self.model.config.mlp_width
        width = band_width(d, self._mesh.shape[MODEL])
        shape = (layers, self._mesh.shape[DATA], d, width)
        return jnp.zeros(shape, jnp.float32, device=NamedSharding(self._mesh, _BANDS))

    def _flush(self) -> None:
        if self._settled:
            return
        for layer in range(len(self._host.total)):
            rows = _rows(self._bands, layer, mesh=self._mesh, spec=self._layout.spec)
            for shard in rows.addressable_shards:
                if shard.replica_id == 0:
                    place = np.searchsorted(self.rows, shard.index[0].start or 0)
                    part = np.asarray(shard.data)
                    self._host.total[layer, place : place + len(part)] += part
        # A key that is not finite shows in every row of its layer, and so on every host.
        check_finite(np.sum(self._host.total, axis=-1), "second moments")
        self._host.count[...] += self._tokens
        self._bands, self._tokens, self._settled = self._empty(), 0, True


def _settles(batches: int) -> bool:
    """Whether sums go to the hosts after so many batches: 1, 2, 4, 8, 16, 32, 64, 96, ..."""
    often = batches < _BATCHES_ON_DEVICES
    return batches.bit_count() == 1 if often else batches % _BATCHES_ON_DEVICES == 0


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
def _rows(bands: Array, layer: int, *, mesh: Mesh, spec: PartitionSpec) -> Array:
    """The second moment of one layer over all groups, `(d, d)`, its rows laid out by `spec`."""

    def rows(bands: Array) -> Array:
        mine = rows_of_band(jax.lax.psum(bands[0], DATA), MODEL)
        if spec[0] == MODEL:
            return mine
        parts = mine.reshape(mesh.shape[DATA], -1, mine.shape[1])
        return parts[jax.lax.axis_index(DATA)]

    over = jax.shard_map(rows, mesh=mesh, in_specs=PartitionSpec(*_BANDS[1:]), out_specs=spec)
    return over(bands[layer])


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
