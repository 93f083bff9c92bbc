"""A pass over a corpus for models larger than memory: layer after layer is read from disk."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from kis_jax.checkpoints.streamed import StreamedModel
from kis_jax.core.arrays.packed import PackedMoment
from kis_jax.data.batches import Batch, fill_batches
from kis_jax.data.prompts import Prompt
from kis_jax.models.streaming import run_layer
from kis_jax.passes.convergence import Watch, due
from kis_jax.passes.keys import check_finite
from kis_jax.passes.memory import return_freed_memory
from kis_jax.passes.preemption import Preempted, preemption_notice
from kis_jax.passes.reliability import Reliability
from kis_jax.passes.store import MomentStore

# Batches summed in float32 before they are added to the float64 sum on disk; see
# `kis_jax.passes.second_moments`.
_MOST_BATCHES = 32


def streamed_keys_and_moments(
    model: StreamedModel,
    texts: Iterable[list[int]],
    prompts: Sequence[Prompt],
    store: MomentStore,
    *,
    token_budget: int,
    chunk_tokens: int,
    watch: Callable[[np.ndarray], Watch] = lambda keys: Watch(),
    on_layer: Callable[[Batch], None] = lambda batch: None,
) -> np.ndarray:
    """Adds the second moments of a corpus to a store, and gives the keys of facts.

    The corpus is taken in chunks. Of a chunk the residual stream of all texts is held; a layer is
    run over all of it while a thread reads the next layer and another adds the sums of the one
    before to those on disk. Facts ride in the first chunk that is run.

    A layer whose sums already contain a chunk, as those of an interrupted run do, is run over it
    without being summed again: the pass ends with the same bits as an undisturbed one.

    Args:
      model: streamed.
      texts: token ids of all documents.
      prompts: of facts; may be empty.
      store: of this very run; its own settings take the place of the two that follow.
      token_budget: the most tokens run at once.
      chunk_tokens: the most tokens of a chunk, padding included.
      watch: from the keys of the facts, what is looked at on the way, and when the pass may end
        before the corpus does.
      on_layer: called after each batch in each layer.

    Returns:
      `(layers, n, d)` float32, the keys of the facts.

    Raises:
      ValueError: if weights, keys or sums are not finite, or the store is damaged.
      Preempted: on SIGTERM, when all sums that were complete are saved.
    """
    token_budget = int(store.settings.get("token_budget", token_budget))
    chunk_tokens = int(store.settings.get("chunk_tokens", chunk_tokens))
    config = model.config
    keys = np.zeros((config.num_layers, len(prompts), config.mlp_width), np.float32)
    facts = list(fill_batches((p.tokens for p in prompts), config, token_budget=token_budget))
    if store.complete or watch(keys).start(store.looks).converged:
        texts = ()
    reliability: Reliability | None = None
    batches = fill_batches(texts, config, token_budget=token_budget)
    done = 0
    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(1, "sums"))
        reader = stack.enter_context(_Reader(model))
        noticed = stack.enter_context(preemption_notice())
        run = _Chunks(model, reader, store, pool, noticed, on_layer)
        for chunk in _chunks(batches, chunk_tokens):
            done += len(chunk)
            if min(layer.batches for layer in store.layers) < done:
                run.run(chunk, done, facts, prompts, keys)
                facts = []
            else:
                for batch in chunk * config.num_layers:
                    on_layer(batch)
            if {layer.batches for layer in store.layers} != {done}:
                continue
            if facts:  # killed between the sums and a look
                run.run([], done, facts, prompts, keys)
                facts = []
            reliability = reliability or watch(keys).reliability
            if reliability is not None and _known(store, reliability):
                break
            if _is_due(store) and _look(store, watch(keys)):
                break
        if facts:
            run.run([], done, facts, prompts, keys)
    check_finite(keys, "keys of the facts")
    if not store.complete:
        _look(store, watch(keys))
        store.finish()
    return keys


def _is_due(store: MomentStore) -> bool:
    """Whether it is time for a look at sums that are all of one length, and none was taken."""
    states = store.layers
    looked = bool(store.looks) and store.looks[-1].tokens >= states[0].count
    return not looked and due(states[0].parts)


def _known(store: MomentStore, reliability: Reliability) -> bool:
    """Whether P is known from sums that are all of one length."""
    tokens = store.layers[0].count
    return reliability.due(tokens) and reliability.look(
        tokens, lambda layer: store.read(layer) / tokens
    )


def _look(store: MomentStore, watch: Watch) -> bool:
    """Looks at the convergence of sums that are all of one length; whether the pass may end."""
    convergence, states = watch.start(store.looks), store.layers
    count = np.array([state.count for state in states])
    if not store.looks or store.looks[-1].tokens < count[0]:
        norms = np.array([state.norm for state in states])
        convergence.look(store.spread, norms, count, store.read)
        store.note(convergence.looks)
    return convergence.converged


class _Reader:
    """Reads layers in their order, again and again, each while the one before is in use."""

    def __init__(self, model: StreamedModel) -> None:
        self._model = model
        self._pool = ThreadPoolExecutor(1, "weights")
        self._ahead: tuple[int, Future[dict[str, Array]]] | None = None

    def __enter__(self) -> _Reader:
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def layer(self, index: int) -> dict[str, Array]:
        """The parameters of a layer; starts to read the next one."""
        if self._ahead is None or self._ahead[0] != index:
            self._start(index)
        assert self._ahead is not None
        found = self._ahead[1].result()
        self._start((index + 1) % self._model.config.num_layers)
        return found

    def _start(self, index: int) -> None:
        self._ahead = index, self._pool.submit(self._model.read_layer, index)


class _Chunks:
    """Runs chunks of a corpus through all layers."""

    def __init__(
        self,
        model: StreamedModel,
        reader: _Reader,
        store: MomentStore,
        pool: ThreadPoolExecutor,
        noticed: Callable[[], bool],
        on_layer: Callable[[Batch], None],
    ) -> None:
        self._model, self._reader, self._store, self._pool = model, reader, store, pool
        self._noticed, self._on_layer = noticed, on_layer
        self._saving: Future[None] | None = None

    def run(
        self,
        chunk: list[Batch],
        done: int,
        facts: list[Batch],
        prompts: Sequence[Prompt],
        keys: np.ndarray,
    ) -> None:
        """Runs one chunk, `done` batches with those before it, and facts beside it."""
        model, streams = self._model, self._embedded([*chunk, *facts])
        for layer in range(model.config.num_layers):
            parameters = self._reader.layer(layer)
            index = jnp.int32(layer)
            summed = not chunk or self._store.layers[layer].batches >= done
            total = None if summed else PackedMoment.zeros(model.config.mlp_width)
            for place, batch in enumerate(chunk):
                x, mask = streams[place], batch.mask
                if total is None:
                    streams[place] = _forward(model, parameters, index, x, mask)
                else:
                    streams[place], total = _add(model, parameters, index, x, mask, total)
                del x
                streams[place].block_until_ready()  # else one batch's memory comes on another's
                self._on_layer(batch)
                if self._noticed():
                    self.settle()
                    raise Preempted("the sums of all layers that were complete are saved")
            for place, batch in enumerate(facts, len(chunk)):
                at = np.zeros(len(batch.tokens), np.int32)
                at[: len(batch.rows)] = [prompts[row].index for row in batch.rows]
                x, found = _keys(model, parameters, index, streams[place], batch.mask, at)
                streams[place] = x
                keys[layer, batch.rows] = np.asarray(found)[: len(batch.rows)]
            del parameters
            return_freed_memory()
            if total is not None:
                self.settle()
                self._saving = self._pool.submit(self._save, layer, total, done)
        self.settle()

    def settle(self) -> None:
        """Waits until all that was measured is on disk."""
        if self._saving is not None:
            saving, self._saving = self._saving, None
            saving.result()

    def _save(self, layer: int, total: PackedMoment, done: int) -> None:
        rows = [np.asarray(block) for block in total.rows]
        self._store.add(layer, rows, int(total.count), done)

    def _embedded(self, batches: list[Batch]) -> list[Array]:
        parameters, ids = self._model.read_embedding(
            np.concatenate([np.unique(batch.tokens) for batch in batches])
        )
        places = [np.searchsorted(ids, batch.tokens) for batch in batches]
        return [
            _embed(self._model, parameters, place, batch.mask)
            for place, batch in zip(places, batches, strict=True)
        ]


def _chunks(batches: Iterable[Batch], most: int) -> Iterator[list[Batch]]:
    """Batches in a row, of no more tokens in all, padding included; one of them at least."""
    chunk: list[Batch] = []
    for batch in batches:
        held = sum(other.tokens.size for other in chunk)
        if chunk and (len(chunk) == _MOST_BATCHES or held + batch.tokens.size > most):
            yield chunk
            chunk = []
        chunk.append(batch)
    if chunk:
        yield chunk


@functools.partial(jax.jit, static_argnums=0)
def _embed(model: StreamedModel, parameters: Any, places: Array, mask: Array) -> Array:
    return model.embed(parameters, places, mask)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=(3, 5))
def _add(
    model: StreamedModel, parameters: Any, layer: Array, x: Array, mask: Array, total: PackedMoment
) -> tuple[Array, PackedMoment]:
    x, glimpse = run_layer(model.shell, model.block(parameters), layer, x, mask)
    return x, total.update(glimpse.keys, mask)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=3)
def _forward(model: StreamedModel, parameters: Any, layer: Array, x: Array, mask: Array) -> Array:
    return run_layer(model.shell, model.block(parameters), layer, x, mask)[0]


@functools.partial(jax.jit, static_argnums=0, donate_argnums=3)
def _keys(
    model: StreamedModel, parameters: Any, layer: Array, x: Array, mask: Array, at: Array
) -> tuple[Array, Array]:
    x, glimpse = run_layer(model.shell, model.block(parameters), layer, x, mask)
    return x, glimpse.keys[jnp.arange(len(at)), at].astype(jnp.float32)
