"""Memory that was freed goes back to the system."""

import platform
from pathlib import Path

import pytest

from kis_jax.passes.memory import return_freed_memory


def resident():
    """Bytes of this process in memory."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if "VmRSS" in x)
    return 1024 * int(line.split()[1])


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="others have no such call")
def test_freed_memory_is_given_back():
    blocks = [bytes([i % 256]) * 20_000 for i in range(10_000)]  # each a piece of glibc's heap
    last = blocks[-1]  # keeps glibc from cutting the heap off at its end
    del blocks
    before = resident()
    return_freed_memory()
    assert resident() < before - 100_000_000 and len(last) == 20_000
