"""What a run on many devices starts from, the same on every host: its mesh and its inputs."""

from __future__ import annotations

import collections
import dataclasses
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import jax
from jax.sharding import Mesh

from kis_jax.checkpoints import fingerprint
from kis_jax.checkpoints.hub import locate
from kis_jax.models.sharding import DATA, make_mesh
from kis_jax.passes.hosts.agreement import agree
from kis_jax.passes.hosts.distributed import from_first, share
from kis_jax.passes.inputs import ScanInputs, ScanRequest, open_inputs

# Files of one size take one time to read; heartbeats tell if a host dies meanwhile.
_SECONDS_TO_READ = 3600.0


def mesh_of_all(model_axis: int) -> Mesh:
    """A mesh over the devices of all hosts; process 0 prints where they are, before any work.

    Raises:
      ValueError: on every host, if the hosts have different devices, or `model_axis` does not
        divide their number.
    """
    here = jax.local_devices()
    kind = f"{len(here)} x {here[0].device_kind}"
    agree("devices", lambda: {"devices of a process": kind})
    found = jax.device_count()
    if not 1 <= model_axis <= found or found % model_axis:
        divisors = ", ".join(str(n) for n in range(1, found + 1) if found % n == 0)
        raise ValueError(
            f"--model-axis: expected a divisor of {found}, the number of devices, found "
            f"{model_axis}; name one of {divisors}"
        )
    mesh = make_mesh(model=model_axis)
    machines = collections.Counter(share(socket.gethostname()))
    if jax.process_index() == 0:
        idle = _gpus_here() - len(here) * machines[socket.gethostname()]
        left = f"; {idle} GPUs of this machine are left idle" if idle > 0 else ""
        where = ", ".join(f"{name} ({count})" for name, count in machines.items())
        print(
            f"devices: {jax.process_count()} processes x {kind}, {mesh.shape[DATA]} copies of the "
            f"model on {model_axis} each; processes on {where}{left}",
            file=sys.stderr,
            flush=True,
        )
    return mesh


def _gpus_here() -> int:
    """GPUs that the system has, whether this process may use them or not; 0 on other devices."""
    if jax.default_backend() != "gpu":
        return 0
    return len(list(Path("/dev").glob("nvidia[0-9]*")))


def open_together(ask: Callable[[], ScanRequest], *, controls: bool) -> ScanInputs:
    """Opens what a request names on every host, and checks that all have found the same.

    Files are compared by what is in them, wherever they lie. Of the weights each host looks at a
    part; process 0 alone reads all of them, for their fingerprint.

    Args:
      ask: gives the request; what it raises on one host is told on all.
      controls: as of `kis_jax.passes.inputs.open_inputs`.

    Raises:
      ValueError: on every host, the same, if an input cannot be opened on one or differs.
    """
    opened: list[ScanInputs] = []

    def contents() -> dict[str, object]:
        request = ask()
        sample = fingerprint.sampled(locate(request.model))
        # Its parts are to fit, the model itself need not.
        inputs = open_inputs(
            request,
            streamed=True,
            controls=controls,
            task="a mesh of devices",
            model_fingerprint=sample,
        )
        opened.append(inputs)
        found = {
            f"contents of {_OPTIONS[name]}": value[:16]
            for name, value in inputs.fingerprints.items()
        }
        return {**found, "number of documents": inputs.corpus.num_documents}

    agree("inputs", contents, seconds=_SECONDS_TO_READ)
    (inputs,) = opened
    of_model = from_first(lambda: fingerprint.of_model(inputs.directory))
    return dataclasses.replace(inputs, fingerprints={**inputs.fingerprints, "model": of_model})


_OPTIONS = {
    "model": "MODEL, config.json and weights",
    "tokenizer": "MODEL, tokenizer",
    "corpus": "--corpus",
    "facts": "--facts",
}
