"""Second moments and keys for the commands that measure them, from a model held or streamed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from kis_jax.core.geometry.second_moment import SecondMoment
    from kis_jax.passes.inputs import ScanInputs


def check_memory_option(stream: bool, memory: str | None) -> None:
    """Raises ValueError if --memory is given where nothing heeds it."""
    if memory is not None and not stream:
        raise ValueError("memory: only --stream chooses how much it holds; pass --stream as well")


def in_memory(
    inputs: ScanInputs, directory: Path, *, save_every: float, watch_facts: bool
) -> tuple[SecondMoment, np.ndarray, list[bool | None]]:
    """Second moments, and keys of the facts and their controls, from a model that fits the memory.

    And which of the facts a decoder knows, by `recall`; of an encoder nothing.

    Args:
      inputs: of the scan.
      directory: of the second moments.
      save_every: seconds between two saves.
      watch_facts: whether the kurtosis of P between the facts is watched.
    """
    from kis_jax.checkpoints.loading import load_model
    from kis_jax.cli import console
    from kis_jax.models import Decoder
    from kis_jax.passes.keys import fact_keys
    from kis_jax.passes.measuring import measure_second_moments
    from kis_jax.passes.reliability import Reliability
    from kis_jax.passes.scores.recall import recall

    request = inputs.request
    loaded = load_model(inputs.directory, dtype=request.dtype)
    keys = fact_keys(loaded, inputs.measured, token_budget=inputs.token_budget)
    known: list[bool | None] = []
    if isinstance(loaded, Decoder):
        known = recall(loaded, inputs.tokenizer, inputs.facts, token_budget=inputs.token_budget)
    documents = inputs.corpus.num_documents or request.num_documents
    reliability = None
    if request.reliability is not None:
        reliability = Reliability(
            keys[:, : len(inputs.prompts)],
            tuple(inputs.layers),
            target=request.reliability,
            ridge=request.ridge,
            inverse=request.inverse,
        )
    with console.corpus_progress(documents) as on_batch:
        moments = measure_second_moments(
            inputs,
            loaded,
            directory,
            keys=keys if watch_facts else None,
            reliability=reliability,
            save_every=save_every,
            on_batch=on_batch,
        )
    if reliability is not None:
        console.print_reliability(reliability, int(moments.count[0]))
    return moments, keys, known


def streamed(
    inputs: ScanInputs, directory: Path, *, memory: str | None, watch_facts: bool
) -> tuple[SecondMoment, np.ndarray]:
    """Second moments, and keys of the facts and their controls, from a model read by layers.

    Args:
      inputs: of the scan.
      directory: of the second moments.
      memory: the most to use, such as "3GB"; None for most of what there is.
      watch_facts: whether the kurtosis of P between the facts is watched.
    """
    from kis_jax.checkpoints.streamed import StreamedModel
    from kis_jax.cli import console
    from kis_jax.passes.measuring import measure_streamed
    from kis_jax.passes.stream_plan import check_disk, parse_bytes, plan_stream

    request = inputs.request
    model = StreamedModel(inputs.directory, dtype=request.dtype)
    plan = plan_stream(
        inputs.config,
        layer_size=model.layer_size,
        dtype=request.dtype,
        document_length=inputs.document_length,
        memory=None if memory is None else parse_bytes(memory),
    )
    check_disk(plan, directory)
    console.print_stream_plan(plan)
    documents = inputs.corpus.num_documents or request.num_documents
    with console.corpus_progress(documents, times=plan.num_layers) as on_layer:
        return measure_streamed(
            inputs, model, directory, plan, watch_facts=watch_facts, on_layer=on_layer
        )
