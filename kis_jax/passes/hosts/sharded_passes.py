"""The pass for second moments over a mesh, on one host or many, taken up where it was left."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from kis_jax.core.geometry.second_moment import SecondMoment
from kis_jax.data.batches import Batch, fill_batches, host_memory
from kis_jax.models import Model
from kis_jax.models.sharding import DATA, mesh_of
from kis_jax.passes.dealing import gather_rows
from kis_jax.passes.hosts.distributed import any_host, each, from_first
from kis_jax.passes.hosts.split_corpus import tokenize_together
from kis_jax.passes.hosts.store import HostStore
from kis_jax.passes.inputs import ScanInputs
from kis_jax.passes.preemption import Preempted, preemption_notice
from kis_jax.passes.sharded_moments import ShardedSecondMomentPass
from kis_jax.passes.store import Saved, SecondMomentStore

# Sums that take more of process 0's memory than this are left on disk as their hosts saved them.
_SHARE_OF_MEMORY = 0.4


@dataclasses.dataclass(frozen=True)
class Gathered:
    """Sums of all layers, of which each host has some rows: collected layer by layer, when asked.

    To ask is a collective: every host asks for the same layers in the same order.

    Attributes:
      part: `(layers, r, d)`, this host's rows.
      rows_of_hosts: which rows each host has.
    """

    part: np.ndarray
    rows_of_hosts: list[np.ndarray]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of the whole, `(layers, d, d)`."""
        layers, _, d = self.part.shape
        return layers, d, d

    def __getitem__(self, layer: int) -> np.ndarray:
        """The sum of one layer, `(d, d)`."""
        return gather_rows(self.part[layer], self.rows_of_hosts)


def sharded_second_moments(
    inputs: ScanInputs,
    model: Model,
    directory: Path,
    *,
    save_every: float,
    on_batch: Callable[[Batch], None] = lambda batch: None,
) -> SecondMoment:
    """Second moments of all layers by all devices of a mesh; every host calls it.

    Hosts tokenize a share of the corpus each. All form the same batches, of which each sends its
    devices their rows. Saves come after whole sets of 32 batches, so that a pass that was
    interrupted ends with the same bits on the same mesh, and with the same numbers up to rounding
    on any other.

    Args:
      inputs: of the scan.
      model: on a mesh.
      directory: that all hosts see.
      save_every: seconds between two saves.
      on_batch: called after each batch, the skipped ones included.

    Returns:
      Stacked over layers, float64; on many hosts `total` is a `Gathered`.

    Raises:
      ValueError: on every host, if keys are not finite or the directory is another run's.
      Preempted: on every host, on SIGTERM to one of them, when all is saved.
    """
    if from_first(lambda: _is_complete(directory, inputs.second_moment_identity)):
        return each(lambda: _restored(directory, inputs))
    running = ShardedSecondMomentPass(model)
    d = inputs.config.mlp_width
    store = HostStore(directory, inputs.second_moment_identity, running.rows, d)
    saved = store.restore()
    done, budget = 0, from_first(lambda: inputs.token_budget) * _groups(model)
    if saved is not None:
        done, budget = saved.batches, saved.token_budget
        running = ShardedSecondMomentPass(model, saved.moments, batches=done)
    if saved is None or not saved.complete:
        done = _run(running, inputs, store, done, budget, save_every, on_batch)
        state = Saved(running.result(), done, budget, complete=True)
        each(functools.partial(store.save, state))
    result = running.result()
    if jax.process_count() == 1:
        _keep(directory, inputs, result, done, budget, store)
        return result
    total: Any = Gathered(result.total, running.rows_of_hosts)  # pyright: ignore
    gathered = SecondMoment(total, result.count)
    bytes_of_all = 8 * int(np.prod(total.shape))
    if from_first(lambda: bytes_of_all < _SHARE_OF_MEMORY * host_memory()):
        _keep(directory, inputs, gathered, done, budget, store)
    return gathered


def _run(
    running: ShardedSecondMomentPass,
    inputs: ScanInputs,
    store: HostStore,
    done: int,
    budget: int,
    save_every: float,
    on_batch: Callable[[Batch], None],
) -> int:
    """Feeds the pass what is left of the corpus; gives the number of batches in all."""
    texts = tokenize_together(
        inputs.corpus.documents(), inputs.tokenizer, context_length=inputs.document_length
    )
    batches = fill_batches(texts, inputs.config, token_budget=budget)
    for batch in itertools.islice(batches, done):
        on_batch(batch)
    last_save = time.monotonic()
    with preemption_notice() as noticed:
        for batch in batches:
            running.add(batch)
            done += 1
            on_batch(batch)
            if running.settled:
                stop = any_host(noticed())
                if stop or any_host(time.monotonic() - last_save > save_every):
                    state = Saved(running.result(), done, budget, complete=False)
                    each(functools.partial(store.save, state))
                    last_save = time.monotonic()
                if stop:
                    each(lambda: None)  # a launcher may kill the others when the first one ends
                    raise Preempted(f"second moments over {done:,} batches of text are saved")
    return done


def _groups(model: Model) -> int:
    mesh = mesh_of(model)
    return 1 if mesh is None else mesh.shape[DATA]


def _is_complete(directory: Path, identity: dict[str, object]) -> bool:
    """Whether the folder holds whole second moments, as a scan on one device leaves them."""
    if not any(path.name.isdigit() for path in directory.glob("*")):
        return False
    with SecondMomentStore(directory, identity) as store:
        progress = store.progress()
    if progress is not None and not progress[1]:
        raise ValueError(
            f"{directory}: expected second moments of a scan on many devices, found an unfinished "
            "one of a single device; finish it there, or choose another output folder"
        )
    return progress is not None


def _restored(directory: Path, inputs: ScanInputs) -> SecondMoment:
    """Whole second moments."""
    with SecondMomentStore(directory, inputs.second_moment_identity) as store:
        saved = store.restore()
    assert saved is not None
    return saved.moments


def _keep(
    directory: Path,
    inputs: ScanInputs,
    moments: SecondMoment,
    batches: int,
    budget: int,
    store: HostStore,
) -> None:
    """Writes the whole as a scan on one device would, on process 0; the rows are then removed."""
    first = jax.process_index() == 0
    layers = [layer if first else None for layer in _layers(moments)]
    if first:
        whole = SecondMoment(np.stack(layers), moments.count)  # pyright: ignore
        with SecondMomentStore(directory, inputs.second_moment_identity) as kept:
            kept.save(Saved(whole, batches, budget, complete=True))
        store.remove()
    each(lambda: None)  # nobody goes on before it is there


def _layers(moments: SecondMoment) -> Iterator[Any]:
    for layer in range(moments.total.shape[0]):
        yield moments.total[layer]
