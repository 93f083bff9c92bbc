"""The pass over a corpus for second moments, taken up where an earlier process left it."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import itertools
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from transformers import PreTrainedTokenizerFast

from kis_jax.checkpoints.files import writing_alone
from kis_jax.core.geometry.second_moment import SecondMoment
from kis_jax.data.batches import Batch, fill_batches, host_memory
from kis_jax.data.corpora import Corpus
from kis_jax.models import Model
from kis_jax.models.sharding import mesh_of
from kis_jax.passes.convergence import Convergence, Watch, due
from kis_jax.passes.dealing import gather_rows
from kis_jax.passes.hosts.distributed import any_host, each, from_first
from kis_jax.passes.hosts.split_corpus import tokenize_together
from kis_jax.passes.hosts.store import HostStore
from kis_jax.passes.preemption import Preempted, preemption_notice
from kis_jax.passes.routed_moments import RoutedMomentPass
from kis_jax.passes.saves import Saved
from kis_jax.passes.second_moments import SecondMomentPass
from kis_jax.passes.store import MomentStore

SECONDS_BETWEEN_SAVES = 300.0
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

    def __len__(self) -> int:
        """Number of layers."""
        return len(self.part)

    def __getitem__(self, layer: int) -> np.ndarray:
        """The sum of one layer, `(d, d)`."""
        return gather_rows(self.part[layer], self.rows_of_hosts)


def resumable_second_moments(
    model: Model,
    tokenizer: PreTrainedTokenizerFast,
    corpus: Corpus,
    directory: Path,
    identity: Mapping[str, object],
    *,
    token_budget: int,
    document_length: int | None = None,
    save_every: float = SECONDS_BETWEEN_SAVES,
    watch: Watch | None = None,
    on_batch: Callable[[Batch], None] = lambda batch: None,
) -> SecondMoment:
    """Second moments of all layers over a corpus, from the folder as far as it holds them.

    With a model on a mesh its devices share the work; on many hosts, every host calls this, each
    tokenizes a share of the corpus, and all form the same batches. Saves at an interval, on
    SIGTERM, and at the end, always sums that were just settled on the hosts: a pass that was
    interrupted ends with the same bits as an undisturbed one on the same mesh, and with the same
    numbers up to rounding on any other.

    Args:
      model: whose keys are measured.
      tokenizer: of the model.
      corpus: read from its start.
      directory: of the second moments, that all hosts see.
      identity: of this very run, plain JSON values.
      token_budget: the most tokens run at once by each group of devices; a pass that is taken up
        keeps its first one.
      document_length: tokens at which documents are cut; the model's context if None.
      save_every: seconds between two saves.
      watch: what is looked at on the way, and when the pass may end before the corpus does;
        if None, only the spread of its parts.
      on_batch: called after each batch, the skipped ones included.

    Returns:
      Second moments stacked over layers, float64: read from disk as they are asked for if they
      were there, else NumPy; on many hosts `total` is a `Gathered`.

    Raises:
      ValueError: on every host, if keys are not finite, or the directory is another run's or that
        of an unfinished streamed pass.
      Preempted: on every host, on SIGTERM to one of them, when all is saved.
    """
    alone, first = jax.process_count() == 1, jax.process_index() == 0
    with writing_alone(directory) if alone else contextlib.nullcontext():
        kept = each(lambda: MomentStore(directory, identity))
        saved = kept.restore()
        if saved is not None and saved.complete:
            return saved.moments
        if "chunk_tokens" in kept.settings:
            raise ValueError(
                f"{directory}: expected second moments that this command can go on with, found "
                "those of a scan that is streamed, unfinished; let `kis scan --stream` finish them"
            )
        make = SecondMomentPass if model.config.experts is None else RoutedMomentPass
        running = make(model)
        store, of_hosts = kept, None
        if not alone:
            if saved is not None:
                raise ValueError(
                    f"{directory}: expected second moments of a scan on many hosts, found an "
                    "unfinished one of a single host; finish it there, or choose another folder"
                )
            store = of_hosts = HostStore(directory, identity, running.rows, model.config.mlp_width)
            saved = store.restore()
        budget = from_first(lambda: token_budget) * running.groups
        if saved is not None:
            budget = saved.token_budget
            running = make(model, saved.moments, batches=saved.batches, spread=saved.spread)
        convergence = (watch or Watch()).start(() if saved is None else saved.looks)
        if saved is None or not saved.complete:
            length = document_length or model.config.context_length
            documents = corpus.read(model) if mesh_of(model) is None else corpus.documents()
            texts = tokenize_together(documents, tokenizer, context_length=length)
            batches = fill_batches(texts, model.config, token_budget=budget)
            _run(running, batches, convergence, store, budget, save_every, on_batch)
        result, looks = running.result(), tuple(convergence.looks)
        if of_hosts is None:
            return result
        gathered: Any = Gathered(result.total, running.rows_of_hosts)  # pyright: ignore
        moments = SecondMoment(gathered, result.count)
        size = 8 * int(np.prod(gathered.shape))
        if from_first(lambda: size < _SHARE_OF_MEMORY * host_memory()):
            layers = (gathered[layer] for layer in range(len(gathered)))
            state = Saved(moments, running.batches, budget, True, running.spread, looks)

            def keep() -> None:
                try:
                    if first:
                        kept.save(state, layers)
                finally:  # all hosts gather all layers, whatever becomes of the save
                    collections.deque(layers, maxlen=0)

            each(keep)  # nobody goes on before it is there
            if first:
                of_hosts.remove()
        return moments


def _run(
    running: SecondMomentPass | RoutedMomentPass,
    batches: Any,
    convergence: Convergence,
    store: MomentStore | HostStore,
    budget: int,
    save_every: float,
    on_batch: Callable[[Batch], None],
) -> None:
    """Feeds the pass what is left of the corpus, and saves it, the last time as complete."""

    def save(*, complete: bool) -> None:
        looks = tuple(convergence.looks)
        state = Saved(running.part, running.batches, budget, complete, running.spread, looks)
        each(functools.partial(store.save, state))

    def look() -> bool:
        if isinstance(running, RoutedMomentPass):  # no end but that of the corpus
            return False
        count = np.asarray(running.part.count)
        done = convergence.look(running.spread, running.norms(), count, running.sum_of)
        return from_first(lambda: done)  # machines of two kinds may differ in the last digit

    def known() -> bool:
        if reliability is None or not reliability.due(tokens):
            return False
        assert isinstance(running, SecondMomentPass)
        running.settle()
        done = reliability.look(tokens, running.mean_of)
        return from_first(lambda: done)

    reliability = convergence.reliability
    alone, tokens = jax.process_count() == 1, 0
    for batch in itertools.islice(batches, running.batches):
        tokens += int(batch.mask.sum())
        on_batch(batch)
    last_save = time.monotonic()
    with preemption_notice() as noticed:
        for batch in () if convergence.converged else batches:
            parts = running.spread.parts
            running.add(batch)
            on_batch(batch)
            tokens += int(batch.mask.sum())
            if known() or (alone and convergence.late(tokens, running.model.config)):
                break
            settled = running.spread.parts > parts
            if settled and due(running.spread.parts) and look():
                break
            if not (alone or settled):
                continue
            stop = any_host(noticed())
            if stop or (settled and any_host(time.monotonic() - last_save > save_every)):
                save(complete=False)
                last_save = time.monotonic()
            if stop:
                each(lambda: None)  # a launcher may kill the others when the first one ends
                raise Preempted(
                    f"second moments over {running.batches:,} batches of text are saved"
                )
        running.settle()
        if not convergence.converged:
            look()
        save(complete=True)
