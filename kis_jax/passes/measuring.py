"""Second moments of all layers of a model as a task asks for them: measured and checked."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

from kis_jax.checkpoints.files import writing_alone
from kis_jax.checkpoints.streamed import StreamedModel
from kis_jax.core.arrays.precision import Inverse
from kis_jax.core.geometry.second_moment import SecondMoment
from kis_jax.data.batches import Batch
from kis_jax.data.corpora import tokenize_corpus
from kis_jax.data.notes import DataNote
from kis_jax.models import Model
from kis_jax.passes.convergence import Watch, kurtosis_of
from kis_jax.passes.inputs import ScanInputs
from kis_jax.passes.layer_store import LayerStore, open_store
from kis_jax.passes.reliability import Reliability
from kis_jax.passes.saved import SECONDS_BETWEEN_SAVES, resumable_second_moments
from kis_jax.passes.stream_plan import StreamPlan
from kis_jax.passes.streaming import streamed_keys_and_moments


def measure_second_moments(
    inputs: ScanInputs,
    model: Model,
    directory: Path,
    *,
    keys: np.ndarray | None = None,
    reliability: Reliability | None = None,
    save_every: float = SECONDS_BETWEEN_SAVES,
    on_batch: Callable[[Batch], None] = lambda batch: None,
) -> SecondMoment:
    """Second moments of all layers, resumed from `directory` and saved there.

    Args:
      inputs: of the scan.
      model: whose keys are measured.
      directory: of the second moments.
      keys: of the facts, `(layers, n, d)`, and of controls after them; if given, the kurtosis of P
        between the facts is watched.
      reliability: the pass ends where it finds P known as well.
      save_every: seconds between two saves.
      on_batch: called after each batch.

    Raises:
      Preempted: on SIGTERM, when all is saved.
      ValueError: if the directory holds those of another run; if the corpus has fewer tokens
        than C needs to be invertible, and no ridge was asked for.
    """
    with open_store(directory, inputs.second_moment_identity) as store:
        moments = resumable_second_moments(
            model,
            inputs.tokenizer,
            inputs.corpus,
            store,
            token_budget=inputs.token_budget,
            document_length=inputs.document_length,
            save_every=save_every,
            watch=_watch(inputs, keys),
            reliability=reliability,
            on_batch=on_batch,
        )
    check_measured(moments, inputs)
    return moments


def measure_streamed(
    inputs: ScanInputs,
    model: StreamedModel,
    directory: Path,
    plan: StreamPlan,
    *,
    watch_facts: bool = False,
    on_layer: Callable[[Batch], None] = lambda batch: None,
) -> tuple[SecondMoment, np.ndarray]:
    """Second moments of all layers, and keys of the facts, from one pass layer after layer.

    Args:
      inputs: of the scan.
      model: streamed.
      directory: of the second moments; an unfinished pass there is taken up.
      plan: how much of the corpus is taken at once, where no pass is taken up.
      watch_facts: whether the kurtosis of P between the facts is watched.
      on_layer: called after each batch in each layer.

    Returns:
      Second moments, read layer by layer as they are asked for, and keys `(layers, n, d)`, those
      of the facts before those of the controls.

    Raises:
      ValueError: as `measure_second_moments`; or if the directory holds those of an unfinished
        pass that is not streamed.
      Preempted: on SIGTERM.
    """
    if any(path.name.isdigit() for path in directory.glob("*")):
        raise ValueError(
            f"{directory}: expected second moments of a streamed scan, found those of one without "
            "--stream; go on without it, or choose another output folder"
        )
    config = inputs.config
    settings = {"token_budget": plan.token_budget, "chunk_tokens": plan.chunk_tokens}
    with writing_alone(directory):
        store = LayerStore(
            directory,
            inputs.second_moment_identity,
            num_layers=config.num_layers,
            width=config.mlp_width,
            settings=settings,
        )
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
            watch=lambda keys: _watch(inputs, keys if watch_facts else None),
            on_layer=on_layer,
        )
        saved = store.restore()
    assert saved is not None
    check_measured(saved.moments, inputs)
    return saved.moments, keys


def _watch(inputs: ScanInputs, keys: np.ndarray | None) -> Watch:
    if keys is None or not inputs.prompts:
        return Watch(inputs.request.until)
    kurtosis = kurtosis_of(
        keys[:, : len(inputs.prompts)], ridge=inputs.request.ridge, inverse=inputs.request.inverse
    )
    return Watch(inputs.request.until, kurtosis, tuple(inputs.layers))


def check_measured(moments: SecondMoment, inputs: ScanInputs) -> None:
    """Raises ValueError if C of a scan has more rows than tokens, and nothing mends it."""
    if not inputs.request.shrinkage:
        check_enough_tokens(
            moments,
            name=inputs.corpus.name,
            ridge=inputs.request.ridge,
            inverse=inputs.request.inverse,
        )


def check_enough_tokens(
    moments: SecondMoment, *, name: str, ridge: float, inverse: Inverse
) -> None:
    """Raises ValueError if C was measured over fewer tokens than it has rows, and nothing helps.

    That is a ridge, or the pseudo-inverse.
    """
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
