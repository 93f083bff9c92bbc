"""Second moments of all layers of a model as a task asks for them: measured and checked."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from kis_jax.checkpoints.files import writing_alone
from kis_jax.checkpoints.streamed import StreamedModel
from kis_jax.core.arrays.precision import Inverse
from kis_jax.core.geometry.second_moment import SecondMoment
from kis_jax.data.batches import Batch
from kis_jax.data.corpora import tokenize_corpus
from kis_jax.data.notes import DataNote
from kis_jax.models import Model, ModelConfig
from kis_jax.passes.convergence import Watch, kurtosis_of
from kis_jax.passes.inputs import ScanInputs
from kis_jax.passes.reliability import Reliability
from kis_jax.passes.saved import SECONDS_BETWEEN_SAVES, resumable_second_moments
from kis_jax.passes.store import MomentStore
from kis_jax.passes.stream_plan import StreamPlan
from kis_jax.passes.streaming import streamed_keys_and_moments


def measure_second_moments(
    inputs: ScanInputs,
    model: Model,
    directory: Path,
    *,
    keys: np.ndarray | None = None,
    watch_kurtosis: bool = False,
    save_every: float = SECONDS_BETWEEN_SAVES,
    end: float | None = None,
    on_batch: Callable[[Batch], None] = lambda batch: None,
) -> tuple[SecondMoment, Reliability | None]:
    """Second moments of all layers, resumed from `directory` and saved there.

    With a model on a mesh its devices share the work; on many hosts, every host calls this.

    Args:
      inputs: of the scan.
      model: whose keys are measured.
      directory: of the second moments.
      keys: of the facts, `(layers, n, d)`, and of controls after them; if given, P between the
        facts is watched as the request has it.
      watch_kurtosis: of P between the facts, even if no end is asked for.
      save_every: seconds between two saves.
      end: when the pass may end with a rough C, see `Watch`.
      on_batch: called after each batch.

    Returns:
      Them, and how well P is known, if the request asks for it.

    Raises:
      Preempted: on SIGTERM, when all is saved.
      ValueError: if the directory holds those of another run; if the corpus has fewer tokens
        than C needs to be invertible, and no ridge was asked for.
    """
    watch = dataclasses.replace(_watch(inputs, keys, watch_kurtosis), end=end)
    moments = resumable_second_moments(
        model,
        inputs.tokenizer,
        inputs.corpus,
        directory,
        inputs.second_moment_identity,
        token_budget=inputs.token_budget,
        document_length=inputs.document_length,
        save_every=save_every,
        watch=watch,
        on_batch=on_batch,
    )
    check_measured(moments, inputs)
    return moments, watch.reliability


def measure_streamed(
    inputs: ScanInputs,
    model: StreamedModel,
    directory: Path,
    plan: StreamPlan,
    *,
    watch_kurtosis: bool = False,
    on_layer: Callable[[Batch], None] = lambda batch: None,
) -> tuple[SecondMoment, np.ndarray, Reliability | None]:
    """Second moments of all layers, and keys of the facts, from one pass layer after layer.

    Args:
      inputs: of the scan.
      model: streamed.
      directory: of the second moments; an unfinished pass there is taken up.
      plan: how much of the corpus is taken at once, where no pass is taken up.
      watch_kurtosis: of P between the facts, even if no end is asked for.
      on_layer: called after each batch in each layer.

    Returns:
      Second moments, read layer by layer as they are asked for; keys `(layers, n, d)`, those of
      the facts before those of the controls; how well P is known, if the request asks for it.

    Raises:
      ValueError: as `measure_second_moments`; or if the directory holds those of an unfinished
        pass that is not streamed.
      Preempted: on SIGTERM.
    """
    config = inputs.config
    settings = {"token_budget": plan.token_budget, "chunk_tokens": plan.chunk_tokens}
    with writing_alone(directory):
        store = MomentStore(
            directory,
            inputs.second_moment_identity,
            num_layers=config.num_layers,
            width=config.mlp_width,
            settings=settings,
        )
        if not store.complete and "chunk_tokens" not in store.settings:
            raise ValueError(
                f"{directory}: expected second moments of a streamed scan, found those of one "
                "without --stream; go on without it, or choose another output folder"
            )
        watch: Watch | None = None

        def watched(keys: np.ndarray) -> Watch:
            nonlocal watch
            watch = _watch(inputs, keys, watch_kurtosis) if watch is None else watch
            return watch

        keys = streamed_keys_and_moments(
            model,
            tokenize_corpus(
                inputs.corpus.documents(),
                inputs.tokenizer,
                context_length=inputs.document_length,
            ),
            inputs.measured,
            store,
            token_budget=plan.token_budget,
            chunk_tokens=plan.chunk_tokens,
            watch=watched,
            on_layer=on_layer,
        )
        saved = store.restore()
    assert saved is not None
    check_measured(saved.moments, inputs)
    return saved.moments, keys, watched(keys).reliability


def _watch(inputs: ScanInputs, keys: np.ndarray | None, kurtosis: bool) -> Watch:
    """What a scan looks at on the way; without keys of facts, C alone."""
    request = inputs.request
    if keys is None or not inputs.prompts:
        return Watch(request.until)
    of_facts, layers = keys[:, : len(inputs.prompts)], tuple(inputs.layers)
    how: Any = {"ridge": request.ridge, "inverse": request.inverse}
    kurtosis |= request.until is not None
    reliability = None
    if request.reliability is not None:
        reliability = Reliability(of_facts, layers, target=request.reliability, **how)
    of_layer = kurtosis_of(of_facts, **how) if kurtosis else None
    return Watch(request.until, of_layer, layers, reliability)


def check_measured(moments: SecondMoment, inputs: ScanInputs) -> None:
    """Raises ValueError if C of a scan has more rows than tokens, and nothing mends it."""
    if not inputs.request.shrinkage:
        check_enough_tokens(
            moments,
            inputs.config,
            name=inputs.corpus.name,
            ridge=inputs.request.ridge,
            inverse=inputs.request.inverse,
        )


def check_enough_tokens(
    moments: SecondMoment, config: ModelConfig, *, name: str, ridge: float, inverse: Inverse
) -> None:
    """Raises ValueError if C was measured over fewer tokens than it has rows, and nothing helps.

    That is a ridge, or the pseudo-inverse. Experts of a mixture that have read too few tokens are
    filled up instead, and named as their layer is read: see `ExpertMeans`.
    """
    if config.experts is not None:
        return
    tokens, d = int(moments.count[0]), moments.total.shape[-1]
    if tokens < d and ridge == 0 and inverse != "pseudo":
        diagonal = float(np.trace(np.asarray(moments.total[0]))) / (max(tokens, 1) * d)
        raise ValueError(
            f"corpus: expected at least {d} tokens, as many as keys have dimensions (some "
            f"{20 * d} for a good estimate), found {tokens} in {name}, so the "
            "second moment has no inverse; add text, or pass --ridge, which adds a number to its "
            f"diagonal and so takes unseen directions for rare ones, for example "
            f"{1e-3 * diagonal:.1g}, a thousandth of the mean of the diagonal in layer 0; or "
            "--inverse pseudo, which leaves unseen directions out"
        )


def tell_dropped(layer: int, dropped: int) -> None:
    """Tells, as a `DataNote`, that directions were dropped of a layer's second moment, if any."""
    if dropped:
        directions = "one direction" if dropped == 1 else f"{dropped} directions"
        warnings.warn(
            DataNote(
                f"layer {layer}: the second moment is singular in {directions}, as where a neuron "
                "never fires; dropped by the pseudo-inverse"
            ),
            stacklevel=2,
        )
