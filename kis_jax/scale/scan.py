"""The steps of a scan: second moments of all layers, then superposition at each."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from kis_jax.checkpoints.files import writing_alone
from kis_jax.checkpoints.pieces import empty
from kis_jax.checkpoints.streamed import StreamedModel
from kis_jax.core.precision import Inverse
from kis_jax.core.second_moment import SecondMoment
from kis_jax.data.batches import Batch
from kis_jax.data.corpora import tokenize_corpus
from kis_jax.data.facts import first_of_subject
from kis_jax.measure.convergence import Look, Watch, kurtosis_of
from kis_jax.measure.editing.closed_forms import tell_dropped
from kis_jax.measure.layers import LayerScan, scan_layer
from kis_jax.measure.reliability import Reliability
from kis_jax.models import Model
from kis_jax.scale.inputs import ScanInputs
from kis_jax.scale.layer_store import LayerStore, open_store
from kis_jax.scale.memory import return_freed_memory
from kis_jax.scale.passes import SECONDS_BETWEEN_SAVES, resumable_second_moments
from kis_jax.scale.stream_plan import StreamPlan
from kis_jax.scale.streaming import streamed_keys_and_moments


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


def scan_layers(inputs: ScanInputs, keys: np.ndarray, moments: SecondMoment) -> Iterator[LayerScan]:
    """Superposition at each layer asked for, in their order.

    Args:
      inputs: of the scan.
      keys: of the facts, `(layers, n, d)`, and of the controls after them.
      moments: stacked over layers.

    Raises:
      ValueError: if a second moment is not positive definite, naming the layer.
    """
    duplicate_of, num_facts = first_of_subject(inputs.facts), len(inputs.facts)
    for layer in inputs.layers:
        return_freed_memory()
        try:
            found = scan_layer(
                keys[layer, :num_facts],
                _mean(moments, layer),  # held by nobody else, as several of its size are to come
                ridge=inputs.request.ridge,
                inverse=inputs.request.inverse,
                duplicate_of=duplicate_of,
                others=keys[layer, num_facts:],
                count=int(moments.count[layer]) if inputs.request.shrinkage else None,
                seed=layer,
            )
        except ValueError as error:
            raise ValueError(f"layer {layer}: {error}") from error
        tell_dropped(layer, cast(int, found.statistics.get("dropped_directions", 0)))
        yield found
        del found  # before the next, which takes as much


def _mean(moments: SecondMoment, layer: int) -> np.ndarray:
    """C of one layer, in memory that jax takes over without a copy."""
    mean = empty(moments.total.shape[1:], np.dtype(np.float64))
    return np.divide(moments.total[layer], int(moments.count[layer]), out=mean)


def scan_record(
    inputs: ScanInputs,
    moments: SecondMoment,
    statistics: Sequence[Mapping[str, object]],
    looks: Sequence[Look],
) -> dict[str, Any]:
    """The content of `scan.json`, plain JSON values.

    Args:
      inputs: of the scan.
      moments: stacked over layers.
      statistics: of the layers, in their order.
      looks: at the convergence of the second moments.
    """
    config = inputs.config
    return {
        "format": 1,
        "version": importlib.metadata.version("kis_jax"),
        "model": inputs.request.model,
        "family": config.family,
        "architecture": {
            "num_layers": config.num_layers,
            "width": config.width,
            "key_dimension": config.mlp_width,
            "num_heads": config.num_heads,
            "vocab_size": config.vocab_size,
            "context_length": config.context_length,
            "num_parameters": inputs.num_parameters,
            "dtype": inputs.request.dtype,
        },
        "fingerprints": inputs.fingerprints,
        "settings": inputs.settings,
        "token_count": int(moments.count[0]),
        "document_count": inputs.corpus.num_documents,
        "second_moment_convergence": [
            {"tokens": look.tokens, "error": [look.error[layer] for layer in inputs.layers]}
            for look in looks
        ],
        "facts": _facts(inputs),
        "layers": [
            {"layer": layer, **numbers}
            for layer, numbers in zip(inputs.layers, statistics, strict=True)
        ],
    }


def looks_at(directory: Path) -> tuple[Look, ...]:
    """At the convergence of finished second moments in a directory; none if they had none."""
    with open_store(directory, {}) as store:
        return store.looks


def _facts(inputs: ScanInputs) -> list[dict[str, object]]:
    duplicate_of = first_of_subject(inputs.facts)
    return [
        {
            "case_id": fact.case_id,
            "subject": fact.subject,
            "prompt": fact.prompt,
            "target": fact.target_true,
            "relation": fact.relation,
            "token": inputs.tokenizer.decode([prompt.tokens[prompt.index]]),
            "token_index": prompt.index,
            "duplicate_of": first,
        }
        for fact, prompt, first in zip(inputs.facts, inputs.prompts, duplicate_of, strict=True)
    ]
