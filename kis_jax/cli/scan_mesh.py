"""`kis scan` on several devices: those of one machine, or of many that run the same command."""

from __future__ import annotations

import contextlib
from pathlib import Path

import jax
from jax.sharding import Mesh

from kis_jax import report
from kis_jax.checkpoints import fingerprint
from kis_jax.checkpoints.hub import locate
from kis_jax.checkpoints.loading import load_model
from kis_jax.cli import console
from kis_jax.core.mesh import DATA, make_mesh
from kis_jax.measure.keys import fact_keys
from kis_jax.scale.hosts.distributed import (
    Hosts,
    check_shared,
    each,
    ends_with_the_others,
    from_first,
    join,
)
from kis_jax.scale.hosts.heartbeat import heard_by_the_others
from kis_jax.scale.hosts.sharded_passes import scan_layers_on_hosts, sharded_second_moments
from kis_jax.scale.inputs import ScanInputs, ScanRequest, open_inputs
from kis_jax.scale.scan import check_measured, looks_at, scan_record


def scan_on_mesh(
    request: ScanRequest, out: Path, *, hosts: Hosts | None, model_axis: int, save_every: float
) -> None:
    """Scans with all devices; every host calls it, and each result is written by one of them.

    Args:
      request: what is asked for, the same on every host.
      out: folder for the results, that all hosts see.
      hosts: how to meet the others; None to use the devices of this machine alone.
      model_axis: devices that share one copy of the model.
      save_every: seconds between two saves.

    Raises:
      ValueError: on every host, if anything is wrong on one.
    """
    if hosts is not None:
        join(hosts)
    with ends_with_the_others(), heard_by_the_others():
        mesh = make_mesh(model=model_axis)
        # It takes every byte of the weights: the other hosts read their parts alone.
        of_model = from_first(lambda: fingerprint.of_model(locate(request.model)))
        inputs = each(lambda: _opened(request, out, of_model))
        check_shared(out)
        _scan(inputs, out, mesh, save_every)


def _opened(request: ScanRequest, out: Path, of_model: str) -> ScanInputs:
    # Its parts are to fit, the model itself need not.
    inputs = open_inputs(request, streamed=True, controls=True, model_fingerprint=of_model)
    report.check_directory(out, inputs.identity)
    return inputs


def _scan(inputs: ScanInputs, out: Path, mesh: Mesh, save_every: float) -> None:
    model = each(lambda: load_model(inputs.directory, dtype=inputs.request.dtype, mesh=mesh))
    first = jax.process_index() == 0
    if first:
        report.clear_leftovers(out)
    documents = inputs.corpus.num_documents or inputs.request.num_documents
    with contextlib.ExitStack() as stack:
        on_batch = stack.enter_context(console.corpus_progress(documents)) if first else _quiet
        moments = sharded_second_moments(
            inputs, model, out / "second_moments", save_every=save_every, on_batch=on_batch
        )
    check_measured(moments, inputs)
    budget = from_first(lambda: inputs.token_budget) * mesh.shape[DATA]
    keys = fact_keys(model, inputs.measured, token_budget=budget)

    statistics = scan_layers_on_hosts(
        inputs, keys, moments, lambda layer, arrays: report.write_layer(out, layer, arrays)
    )
    if first:
        looks = looks_at(out / "second_moments")
        record = scan_record(inputs, moments, statistics, looks)
        report.write_record(out, record)
        console.print_layers(record["layers"])
        console.print_done(report.write_report(out))
    each(lambda: None)  # no host leaves before the report is written


def _quiet(_: object) -> None:
    """Process 0 shows the progress of all."""
