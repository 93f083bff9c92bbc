"""Where closed forms are computed: in float64, on the host."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import jax


@contextlib.contextmanager
def float64_on_host() -> Iterator[None]:
    """Within it, jax computes in float64 on the CPU, whatever accelerator there is."""
    with jax.enable_x64(True), jax.default_device(jax.local_devices(backend="cpu")[0]):
        yield
