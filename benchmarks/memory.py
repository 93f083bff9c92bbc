"""Peak memory of `kis scan` as the corpus and the number of facts grow.

    python -m benchmarks.memory

Whole processes on the embedded model; the peak is the operating system's own account of each. Only
the arrays that hold the facts themselves may grow: P, Gram matrix and cosines, n x n, and keys.
"""

from __future__ import annotations

import multiprocessing
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.harness import report
from kis_jax import factlm

KIS = Path(sys.executable).parent / "kis"
CASES = ((128, 1), (128, 16), (512, 1))  # facts, and how often the corpus is repeated


def scan(arguments: list[str]) -> int:
    """Peak resident memory in bytes of one scan; in a process of its own, which has one child."""
    subprocess.run([KIS, "scan", *arguments], check=True, capture_output=True)
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024


def main() -> None:
    """Scans with each size and prints one table."""
    text = factlm.corpus_path().read_text(encoding="utf-8")
    rows = []
    for num_facts, repeats in CASES:
        with tempfile.TemporaryDirectory() as folder:
            corpus = Path(folder) / "corpus.txt"
            corpus.write_text(text * repeats, encoding="utf-8")
            arguments = ["--corpus", str(corpus), "--num-facts", str(num_facts)]
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                peak = pool.apply(scan, ([*arguments, "--out", f"{folder}/out"],))
        rows.append(
            {
                "facts": num_facts,
                "documents": len(text.splitlines()) * repeats,
                "peak memory": f"{peak / 2**20:,.0f} MiB",
                "of which an (n, n) matrix": f"{8 * num_facts**2 / 2**20:.2f} MiB",
            }
        )
    report("memory", "Peak memory of a scan of factlm", rows)


if __name__ == "__main__":
    main()
