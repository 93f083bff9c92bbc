"""Second moments and keys for the commands that measure them, from a model held or streamed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    import numpy as np
    from jax.sharding import Mesh

    from kis_jax.core.geometry.second_moment import SecondMoment
    from kis_jax.models import Model
    from kis_jax.passes.inputs import ScanInputs, ScanRequest


@contextlib.contextmanager
def opened(
    context: typer.Context,
    ask: Callable[[], ScanRequest],
    out: Path,
    *,
    stream: bool,
    memory: str | None,
    controls: bool = False,
    mixtures: bool = False,
) -> Iterator[tuple[ScanInputs, Mesh | None]]:
    """Within it, what a command was asked for is open, on every host of a run alike.

    Args:
      context: of the command.
      ask: gives what is asked for.
      out: folder for the results, that all hosts see.
      stream: whether the model is read layer by layer.
      memory: the most to use then.
      controls: as of `kis_jax.passes.inputs.open_inputs`.
      mixtures: likewise.

    Yields:
      The inputs, and the mesh that the work is shared over; None for one device.

    Raises:
      ValueError: on every host, if anything is wrong on one, or they differ.
    """
    from kis_jax.cli.hosts import on_mesh
    from kis_jax.passes.hosts.distributed import check_shared
    from kis_jax.passes.hosts.opening import open_together
    from kis_jax.passes.inputs import open_inputs

    asked = on_mesh(context)
    if memory is not None and not stream:
        raise ValueError("memory: only --stream chooses how much it holds; pass --stream as well")
    if asked is None:
        yield open_inputs(ask(), streamed=stream, controls=controls, mixtures=mixtures), None
        return
    with asked.joined() as mesh:
        inputs = open_together(ask, controls=controls)
        check_shared(out)
        yield inputs, mesh


def measured(
    inputs: ScanInputs,
    directory: Path,
    mesh: Mesh | None,
    *,
    stream: bool,
    memory: str | None,
    save_every: float,
    watch_kurtosis: bool = False,
) -> tuple[SecondMoment, np.ndarray, list[bool | None]]:
    """Second moments of all layers, and keys of the facts and their controls, `(layers, n, d)`.

    Keys of a mixture are a `Routed` of arrays with these two axes in front.
    And which of the facts a decoder that one device holds knows, by `recall`; else nothing.

    Args:
      inputs: of the scan.
      directory: of the second moments.
      mesh: that shares the work; None for one device.
      stream: whether the model is read layer by layer.
      memory: the most to use then, such as "3GB"; None for most of what there is.
      save_every: seconds between two saves.
      watch_kurtosis: of P between the facts, even if no end is asked for.
    """
    import jax

    from kis_jax.checkpoints.loading import load_model
    from kis_jax.cli import console
    from kis_jax.models import Decoder
    from kis_jax.models.sharding import DATA
    from kis_jax.passes.hosts.distributed import each, from_first
    from kis_jax.passes.keys import fact_keys, routed_fact_keys
    from kis_jax.passes.measuring import measure_second_moments
    from kis_jax.passes.scores.recall import recall

    if stream:
        return *_streamed(inputs, directory, memory, watch_kurtosis), []
    model = each(lambda: load_model(inputs.directory, dtype=inputs.request.dtype, mesh=mesh))
    groups = 1 if mesh is None else mesh.shape[DATA]
    budget = from_first(lambda: inputs.token_budget) * groups
    take: Callable[..., Any] = fact_keys if model.config.experts is None else routed_fact_keys
    keys = take(model, inputs.measured, token_budget=budget)
    known: list[bool | None] = []
    if mesh is None and isinstance(model, Decoder):
        known = recall(model, inputs.tokenizer, inputs.facts, token_budget=budget)
    documents = inputs.corpus.num_documents or inputs.request.num_documents
    first = jax.process_index() == 0
    with contextlib.ExitStack() as stack:
        on_batch = stack.enter_context(console.corpus_progress(documents)) if first else _quiet
        moments, reliability = measure_second_moments(
            inputs,
            model,
            directory,
            keys=keys,
            watch_kurtosis=watch_kurtosis,
            save_every=save_every,
            on_batch=on_batch,
        )
    if reliability is not None and first:
        console.print_reliability(reliability, int(moments.count[0]))
    return moments, keys, known


def model_and_moments(inputs: ScanInputs, directory: Path, out: Path) -> tuple[Model, SecondMoment]:
    """The model of a command that edits, on one device, and second moments of its keys.

    Args:
      inputs: of the scan that measures them.
      directory: of the second moments.
      out: folder for the results, made once the model is read.
    """
    from kis_jax.checkpoints.loading import load_model
    from kis_jax.cli import console
    from kis_jax.passes.measuring import measure_second_moments

    model = load_model(inputs.directory)
    out.mkdir(parents=True, exist_ok=True)
    documents = inputs.corpus.num_documents or inputs.request.num_documents
    with console.corpus_progress(documents) as on_batch:
        moments, _ = measure_second_moments(inputs, model, directory, on_batch=on_batch)
    return model, moments


def _streamed(
    inputs: ScanInputs, directory: Path, memory: str | None, watch_kurtosis: bool
) -> tuple[SecondMoment, np.ndarray]:
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
        moments, keys, known = measure_streamed(
            inputs, model, directory, plan, watch_kurtosis=watch_kurtosis, on_layer=on_layer
        )
    if known is not None:
        console.print_reliability(known, int(moments.count[0]))
    return moments, keys


def _quiet(_: object) -> None:
    """Process 0 shows the progress of all."""
