"""`kis scan` on several devices: those of one machine, or of many that run the same command."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import jax
from jax.sharding import Mesh

from kis_jax.checkpoints.loading import load_model
from kis_jax.cli import console
from kis_jax.cli.hosts import OnMesh
from kis_jax.core.geometry.second_moment import SecondMoment
from kis_jax.models import Model
from kis_jax.models.sharding import DATA
from kis_jax.passes.hosts.distributed import check_shared, each, from_first
from kis_jax.passes.hosts.opening import open_together
from kis_jax.passes.hosts.sharded_passes import sharded_second_moments
from kis_jax.passes.inputs import ScanInputs, ScanRequest
from kis_jax.passes.keys import fact_keys
from kis_jax.passes.measuring import check_measured
from kis_jax.scan.page import write_report
from kis_jax.scan.record import check_directory, clear_leftovers, write_layer, write_record
from kis_jax.scan.run import looks_at, scan_layers_on_hosts, scan_record
from kis_jax.stats import console as stats_console
from kis_jax.stats.run import open_stats


def scan_on_mesh(
    ask: Callable[[], ScanRequest], out: Path, on_mesh: OnMesh, *, save_every: float
) -> None:
    """Scans with all devices; every host calls it, and each result is written by one of them.

    Args:
      ask: gives what is asked for, the same on every host.
      out: folder for the results, that all hosts see.
      on_mesh: which devices, and how to meet the other hosts.
      save_every: seconds between two saves.

    Raises:
      ValueError: on every host, if anything is wrong on one, or they differ.
    """
    with on_mesh.joined() as mesh:
        inputs = open_together(ask, controls=True)
        each(lambda: check_directory(out, inputs.identity))
        check_shared(out)
        _scan(inputs, out, mesh, save_every)


def collect_on_mesh(
    ask: Callable[[], ScanRequest], out: Path, on_mesh: OnMesh, *, save_every: float
) -> None:
    """Collects second moments with all devices; as `scan_on_mesh`."""
    with on_mesh.joined() as mesh:
        inputs = open_together(ask, controls=False)
        if inputs.facts:
            raise ValueError("facts: are watched on one device alone; leave them out")
        check_shared(out)
        model = each(lambda: load_model(inputs.directory, dtype=inputs.request.dtype, mesh=mesh))
        _moments(inputs, model, out, save_every)
        if jax.process_index() == 0:
            if not list(out.glob("hosts_*")):  # as the hosts saved them, if they are too large
                stats_console.print_stats(open_stats(out))
            console.print_folder(out)


def _moments(inputs: ScanInputs, model: Model, directory: Path, save_every: float) -> SecondMoment:
    documents = inputs.corpus.num_documents or inputs.request.num_documents
    with contextlib.ExitStack() as stack:
        on_batch = _quiet
        if jax.process_index() == 0:
            on_batch = stack.enter_context(console.corpus_progress(documents))
        return sharded_second_moments(
            inputs, model, directory, save_every=save_every, on_batch=on_batch
        )


def _scan(inputs: ScanInputs, out: Path, mesh: Mesh, save_every: float) -> None:
    model = each(lambda: load_model(inputs.directory, dtype=inputs.request.dtype, mesh=mesh))
    first = jax.process_index() == 0
    if first:
        clear_leftovers(out)
    moments = _moments(inputs, model, out / "second_moments", save_every)
    check_measured(moments, inputs)
    budget = from_first(lambda: inputs.token_budget) * mesh.shape[DATA]
    keys = fact_keys(model, inputs.measured, token_budget=budget)

    statistics = scan_layers_on_hosts(
        inputs, keys, moments, lambda layer, arrays: write_layer(out, layer, arrays)
    )
    if first:
        looks = looks_at(out / "second_moments")
        write_record(out, scan_record(inputs, moments, statistics, looks))
        write_report(out)
    each(lambda: None)  # no host leaves before the report is written
    if first:
        lines = zip(inputs.layers, statistics, strict=True)
        console.print_layers([{"layer": layer, **numbers} for layer, numbers in lines])
        console.print_done(out / "report.html")


def _quiet(_: object) -> None:
    """Process 0 shows the progress of all."""
