"""The steps of a scan: second moments of all layers, then superposition at each."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from kis_jax.core.second_moment import SecondMoment
from kis_jax.data.batches import Batch
from kis_jax.data.facts import first_of_subject
from kis_jax.measure.keys import fact_keys
from kis_jax.measure.layers import LayerScan, scan_layer
from kis_jax.models import Model
from kis_jax.scale.inputs import ScanInputs
from kis_jax.scale.passes import resumable_second_moments
from kis_jax.scale.store import SecondMomentStore


def measure_second_moments(
    inputs: ScanInputs,
    model: Model,
    directory: Path,
    *,
    on_batch: Callable[[Batch], None] = lambda batch: None,
) -> SecondMoment:
    """Second moments of all layers, resumed from `directory` and saved there.

    Raises:
      ValueError: if the directory holds those of another run; if the corpus has fewer tokens
        than C needs to be invertible, and no ridge was asked for.
    """
    with SecondMomentStore(directory, inputs.second_moment_identity) as store:
        moments = resumable_second_moments(
            model,
            inputs.tokenizer,
            inputs.corpus,
            store,
            token_budget=inputs.token_budget,
            document_length=inputs.document_length,
            on_batch=on_batch,
        )
    check_enough_tokens(moments, name=inputs.corpus.name, ridge=inputs.request.ridge)
    return moments


def check_enough_tokens(moments: SecondMoment, *, name: str, ridge: float) -> None:
    """Raises ValueError if C was measured over fewer tokens than it has rows, and gets no ridge."""
    tokens, d = int(moments.count[0]), moments.total.shape[-1]
    if tokens < d and ridge == 0:
        diagonal = float(np.trace(np.asarray(moments.total[0]))) / (max(tokens, 1) * d)
        raise ValueError(
            f"corpus: expected at least {d} tokens, as many as keys have dimensions (some "
            f"{20 * d} for a good estimate), found {tokens} in {name}, so the "
            "second moment has no inverse; add text, or pass --ridge, which adds a number to its "
            f"diagonal and so takes unseen directions for rare ones, for example "
            f"{1e-3 * diagonal:.1g}, a thousandth of the mean of the diagonal in layer 0"
        )


def scan_layers(inputs: ScanInputs, model: Model, moments: SecondMoment) -> Iterator[LayerScan]:
    """Superposition at each layer asked for, in their order.

    Raises:
      ValueError: if a second moment is not positive definite, naming the layer.
    """
    keys = fact_keys(model, inputs.prompts, token_budget=inputs.token_budget)
    duplicate_of = first_of_subject(inputs.facts)
    for layer in inputs.layers:
        mean = np.asarray(moments.total[layer]) / int(moments.count[layer])
        try:
            yield scan_layer(
                keys[layer], mean, ridge=inputs.request.ridge, duplicate_of=duplicate_of
            )
        except ValueError as error:
            raise ValueError(f"layer {layer}: {error}") from error


def scan_record(
    inputs: ScanInputs,
    model: Model,
    moments: SecondMoment,
    statistics: Sequence[Mapping[str, object]],
) -> dict[str, Any]:
    """The content of `scan.json`, plain JSON values; `statistics` are those of the layers."""
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
            "num_parameters": sum(leaf.size for leaf in jax.tree.leaves(model)),
            "dtype": inputs.request.dtype,
        },
        "fingerprints": inputs.fingerprints,
        "settings": inputs.settings,
        "token_count": int(moments.count[0]),
        "document_count": inputs.corpus.num_documents,
        "facts": _facts(inputs),
        "layers": [
            {"layer": layer, **numbers}
            for layer, numbers in zip(inputs.layers, statistics, strict=True)
        ],
    }


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
