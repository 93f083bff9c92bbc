"""Peak memory and time of loading a checkpoint of two gigabytes, made on the spot.

    python -m benchmarks.loading

A GPT-2 whose weights are noise: 24 layers of width 1,280, its embedding a tenth of the whole. Each
load is a process of its own; the peak is the operating system's account of it, less what the
process held with jax imported and nothing loaded, and is given as a share of the model's size in
its target dtype. A plain copy of the file to memory, here and now, stands beside the time.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.harness import report
from kis_jax.checkpoints.opening import parameter_shapes, read_config
from kis_jax.checkpoints.table import expand

CONFIG = {
    "model_type": "gpt2",
    "n_layer": 24,
    "n_embd": 1280,
    "n_head": 20,
    "n_positions": 1024,
    "vocab_size": 50257,
}
CASES = (("F32", "float32"), ("F32", "bfloat16"), ("BF16", "float32"), ("BF16", "bfloat16"))


def write_checkpoint(directory: Path, code: str, config: Mapping[str, object] = CONFIG) -> int:
    """Writes noise for weights, tensor by tensor; gives the number of parameters."""
    (directory / "config.json").write_text(json.dumps(config))
    family, shape = read_config(directory)
    shapes = parameter_shapes(family, shape)
    tensors = {entry.source: entry.shape for entry in expand(family, shapes)}
    dtype = np.dtype(np.float32 if code == "F32" else jnp.bfloat16)
    header, end = {}, 0
    for name, shape in tensors.items():
        start, end = end, end + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": code, "shape": shape, "data_offsets": [start, end]}
    noise = (0.02 * np.random.default_rng(0).standard_normal(2**20, np.float32)).astype(dtype)
    with (directory / "model.safetensors").open("wb") as file:
        text = json.dumps(header).encode()
        file.write(len(text).to_bytes(8, "little") + text)
        for shape in tensors.values():
            file.write(np.resize(noise, math.prod(shape)).tobytes())
    return sum(map(math.prod, tensors.values()))


def load(directory: Path, dtype: str) -> tuple[float, int, int]:
    """Seconds, and bytes held before and at most, of one load in this process alone."""
    from kis_jax.checkpoints.loading import load_model

    jax.block_until_ready(jnp.zeros(1))
    before = _status("VmRSS")
    start = time.perf_counter()
    jax.block_until_ready(load_model(directory, dtype=dtype))
    return time.perf_counter() - start, before, _status("VmHWM")


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {name}")


def copy(path: Path) -> float:
    """Seconds to read a file's bytes into memory that is there already."""
    memory = bytearray(32 * 2**20)
    start = time.perf_counter()
    with path.open("rb", buffering=0) as file:
        while file.readinto(memory):
            pass
    return time.perf_counter() - start


def cases() -> Iterator[dict[str, object]]:
    """A row for each pair of dtypes, on disk and in memory."""
    for code, dtype in CASES:
        with tempfile.TemporaryDirectory() as folder:
            size = write_checkpoint(Path(folder), code) * jnp.dtype(dtype).itemsize
            path = Path(folder) / "model.safetensors"
            read = copy(path)
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                seconds, before, peak = pool.apply(load, (Path(folder), dtype))
            yield {
                "on disk": f"{code}, {path.stat().st_size / 1e9:.2f} GB",
                "in memory": f"{dtype}, {size / 1e9:.2f} GB",
                "peak / size": round((peak - before) / size, 3),
                "peak of the process / size": round(peak / size, 3),
                "time": f"{seconds:.1f} s",
                "reading the file alone": f"{read:.1f} s",
            }


def main() -> None:
    """Loads with each pair of dtypes and prints one table."""
    report("loading", "Loading a checkpoint", list(cases()))


if __name__ == "__main__":
    main()
