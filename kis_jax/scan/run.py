"""Superposition at each layer of a model, on one host or on many."""

from __future__ import annotations

import dataclasses
import importlib.metadata
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import jax
import numpy as np

from kis_jax.checkpoints.pieces import empty
from kis_jax.core.geometry.routed import Routed
from kis_jax.core.geometry.second_moment import SecondMoment
from kis_jax.data.facts import first_of_subject
from kis_jax.passes.convergence import Look
from kis_jax.passes.hosts.distributed import together
from kis_jax.passes.inputs import ScanInputs
from kis_jax.passes.means import expert_means, tokens_of
from kis_jax.passes.measuring import tell_dropped
from kis_jax.passes.memory import return_freed_memory
from kis_jax.scan.layers import LayerScan, scan_layer
from kis_jax.scan.mixtures import scan_mixture


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


@dataclasses.dataclass(frozen=True)
class _Own:
    """Sums of those layers that one host measures; asked for once, as if all were there."""

    layers: dict[int, np.ndarray]
    shape: tuple[int, ...]

    def __getitem__(self, layer: int) -> np.ndarray:
        return self.layers.pop(layer)  # held by nobody else, as several of its size are to come


def scan_layers_on_hosts(
    inputs: ScanInputs,
    keys: np.ndarray,
    moments: SecondMoment,
    write: Callable[[int, Mapping[str, np.ndarray]], object],
) -> list[dict[str, Any]]:
    """Superposition at each layer asked for, each layer by one host. A collective.

    Args:
      inputs: of the scan.
      keys: of the facts, `(layers, n, d)`.
      moments: stacked over layers.
      write: takes a layer and its arrays, on the host that measured them.

    Returns:
      The statistics of all layers in their order, on every host.

    Raises:
      ValueError: on every host, if a second moment is not positive definite, naming the layer.
    """
    if inputs.config.experts is not None:
        return _scan_mixtures(inputs, cast(Any, keys), moments, write)
    hosts, mine = jax.process_count(), jax.process_index()
    statistics: list[dict[str, Any]] = []
    for start in range(0, len(inputs.layers), hosts):
        totals: dict[int, np.ndarray] = {}
        for host, layer in enumerate(inputs.layers[start : start + hosts]):
            total = moments.total[layer]  # of all hosts, or of the one file that all have read
            if host == mine:
                totals[layer] = np.asarray(total)

        def measure(totals: dict[int, np.ndarray] = totals) -> list[dict[str, Any]]:
            own = SecondMoment(cast(Any, _Own(totals, moments.total.shape)), moments.count)
            found = []
            for layer in list(totals):
                (scanned,) = scan_layers(dataclasses.replace(inputs, layers=[layer]), keys, own)
                write(layer, scanned.arrays)
                found.append(scanned.statistics)
            return found

        for of_host in together(measure):
            statistics.extend(of_host)
    return statistics


def _scan_mixtures(
    inputs: ScanInputs,
    keys: Routed,
    moments: SecondMoment,
    write: Callable[[int, Mapping[str, np.ndarray]], object],
) -> list[dict[str, Any]]:
    """As `scan_layers_on_hosts`, of mixtures, whose moments are stacked over layers and experts."""
    num_facts, statistics = len(inputs.facts), []
    for layer in inputs.layers:
        return_freed_memory()
        try:
            found = scan_mixture(
                keys[layer, :num_facts],
                keys[layer, num_facts:],
                expert_means(
                    moments,
                    layer,
                    inputs.config,
                    ridge=inputs.request.ridge,
                    inverse=inputs.request.inverse,
                ),
                duplicate_of=first_of_subject(inputs.facts),
                layer=layer,
            )
        except ValueError as error:
            raise ValueError(f"layer {layer}: {error}") from error
        write(layer, found.arrays)
        statistics.append(found.statistics)
    return statistics


def _mean(moments: SecondMoment, layer: int) -> np.ndarray:
    """C of one layer, in memory that jax takes over without a copy."""
    mean = empty(moments.total.shape[1:], np.dtype(np.float64))
    return np.divide(moments.total[layer], int(moments.count[layer]), out=mean)


def scan_record(
    inputs: ScanInputs,
    moments: SecondMoment,
    statistics: Sequence[Mapping[str, object]],
    looks: Sequence[Look],
    known: Sequence[bool | None] = (),
) -> dict[str, Any]:
    """The content of `scan.json`, plain JSON values.

    Args:
      inputs: of the scan.
      moments: stacked over layers.
      statistics: of the layers, in their order.
      looks: at the convergence of the second moments.
      known: whether the model knows each fact; nothing where it was not asked.
    """
    config, experts, count = inputs.config, {}, inputs.config.experts_per_layer
    if config.experts is not None:
        experts = {"num_experts": count, "experts_per_token": config.experts_per_token}
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
            **experts,
        },
        "fingerprints": inputs.fingerprints,
        "settings": inputs.settings,
        "token_count": tokens_of(moments, config),
        "document_count": inputs.corpus.num_documents,
        "second_moment_convergence": [
            {"tokens": look.tokens, "error": [look.error[layer] for layer in inputs.layers]}
            for look in looks
        ],
        "facts": _facts(inputs, known or [None] * len(inputs.facts)),
        "layers": [
            {"layer": layer, **numbers}
            for layer, numbers in zip(inputs.layers, statistics, strict=True)
        ],
    }


def _facts(inputs: ScanInputs, known: Sequence[bool | None]) -> list[dict[str, object]]:
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
            "known": is_known,
        }
        for fact, prompt, first, is_known in zip(
            inputs.facts, inputs.prompts, duplicate_of, known, strict=True
        )
    ]
