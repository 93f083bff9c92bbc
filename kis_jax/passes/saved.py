"""The pass over a corpus for second moments, taken up where an earlier process left it."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable

import numpy as np
from transformers import PreTrainedTokenizerFast

from kis_jax.checkpoints.files import writing_alone
from kis_jax.core.geometry.second_moment import SecondMoment
from kis_jax.data.batches import Batch, fill_batches
from kis_jax.data.corpora import Corpus, tokenize_corpus
from kis_jax.models import Model
from kis_jax.passes.convergence import Convergence, Watch, due
from kis_jax.passes.layer_store import LayerStore
from kis_jax.passes.preemption import Preempted, preemption_notice
from kis_jax.passes.reliability import Reliability
from kis_jax.passes.second_moments import SecondMomentPass
from kis_jax.passes.store import Saved, SecondMomentStore

SECONDS_BETWEEN_SAVES = 300.0


def resumable_second_moments(
    model: Model,
    tokenizer: PreTrainedTokenizerFast,
    corpus: Corpus,
    store: SecondMomentStore | LayerStore,
    *,
    token_budget: int,
    document_length: int | None = None,
    save_every: float = SECONDS_BETWEEN_SAVES,
    watch: Watch | None = None,
    reliability: Reliability | None = None,
    on_batch: Callable[[Batch], None] = lambda batch: None,
) -> SecondMoment:
    """Second moments of all layers over a corpus, from the store as far as it holds them.

    Saves at an interval, on SIGTERM, and at the end. Partial sums in float32 are saved as well, so
    that an interrupted and resumed pass ends with the same bits as an undisturbed one.

    Args:
      model: whose keys are measured.
      tokenizer: of the model.
      corpus: read from its start.
      store: opened with the identity of this very run.
      token_budget: the most tokens run at once; a pass that is taken up keeps its first one.
      document_length: tokens at which documents are cut; the model's context if None.
      save_every: seconds between two saves.
      watch: what is looked at on the way, and when the pass may end before the corpus does;
        if None, only the spread of its parts.
      reliability: the pass ends where it finds P known as well.
      on_batch: called after each batch, the skipped ones included.

    Returns:
      Second moments stacked over layers, NumPy float64.

    Raises:
      ValueError: if keys are not finite; or if the store is that of a streamed pass, unfinished.
      Preempted: on SIGTERM, when all is saved.
    """
    saved = store.restore()
    if saved is not None and saved.complete:
        return saved.moments
    if isinstance(store, LayerStore):
        raise ValueError(
            f"{store.directory}: expected second moments that this command can go on with, found "
            "those of a scan that is streamed, unfinished; let `kis scan --stream` finish them"
        )
    done, running, looks = 0, SecondMomentPass(model), ()
    if saved is not None:
        done, token_budget, looks = saved.batches, saved.token_budget, saved.looks
        running = SecondMomentPass(model, saved.moments, saved.pending, saved.spread)
    convergence = (watch or Watch()).start(looks)
    length = document_length or model.config.context_length
    texts = tokenize_corpus(corpus.read(model), tokenizer, context_length=length)
    batches = fill_batches(texts, model.config, token_budget=token_budget)
    tokens = 0
    for batch in itertools.islice(batches, done):
        tokens += int(batch.mask.sum())
        on_batch(batch)

    def save(*, complete: bool) -> None:
        moments, pending = running.state()
        looks = tuple(convergence.looks)
        store.save(Saved(moments, done, token_budget, complete, pending, running.spread, looks))

    last_save = time.monotonic()
    with writing_alone(store.directory), preemption_notice() as noticed:
        for batch in () if convergence.converged else batches:
            parts = running.spread.parts
            running.add(batch)
            done += 1
            on_batch(batch)
            tokens += int(batch.mask.sum())
            if reliability is not None and reliability.due(tokens):
                so_far = running.result()
                if reliability.look(tokens, lambda layer: _mean(so_far, layer)):  # noqa: B023
                    break
            settled = running.spread.parts > parts
            if settled and due(running.spread.parts) and _look(convergence, running):
                break
            if noticed() or time.monotonic() - last_save > save_every:
                save(complete=False)
                last_save = time.monotonic()
            if noticed():
                raise Preempted(f"second moments over {done:,} batches of text are saved")
    result = running.result()
    if not convergence.converged:
        _look(convergence, running)
    save(complete=True)
    return result


def _mean(moments: SecondMoment, layer: int) -> np.ndarray:
    return np.asarray(moments.total[layer]) / int(moments.count[layer])


def _look(convergence: Convergence, running: SecondMomentPass) -> bool:
    moments = running.result()
    norms = np.array([np.vdot(total, total) ** 0.5 for total in moments.total])
    count = np.asarray(moments.count)
    return convergence.look(
        running.spread, norms, count, lambda layer: np.asarray(moments.total[layer])
    )
