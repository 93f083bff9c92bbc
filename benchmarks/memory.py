"""Peak memory of `kis scan`: as corpus and facts grow, and of mixtures against what was stated.

    python -m benchmarks.memory

Whole processes; the peak is the operating system's own account of each. On the embedded model only
the arrays that hold the facts themselves may grow: P, Gram matrix and cosines, n x n, and keys. Of
random mixtures in OLMoE's shape, `kis inspect` states before what the pass holds; the same model
with experts of width 8 tells what the program itself takes.
"""

from __future__ import annotations

import json
import multiprocessing
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from flax import nnx

from benchmarks.harness import report
from kis_jax import factlm
from kis_jax.checkpoints.saving import save
from kis_jax.models import Decoder, DecoderConfig
from kis_jax.models.families import FAMILIES

KIS = [
    sys.executable,
    "-c",
    "import sys; from kis_jax.cli import main; sys.argv[0] = 'kis'; main()",
]
CASES = ((128, 1), (128, 16), (512, 1))  # facts, and how often the corpus is repeated
MIXTURES = ((64, 8), (64, 512), (64, 768))  # experts, and their width
_DOCUMENTS = 1000


def run(command: str, arguments: list[str]) -> tuple[int, str]:
    """Peak resident memory in bytes of a command, and its output; a process with one child."""
    done = subprocess.run([*KIS, command, *arguments], check=True, capture_output=True, text=True)
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024, done.stdout


def alone(command: str, *arguments: object) -> tuple[int, str]:
    """The same in a process of its own, so that no peak is that of another command."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(run, (command, list(map(str, arguments))))


def write_mixture(directory: Path, experts: int, width: int) -> None:
    """A random OLMoE of four layers with factlm's tokenizer."""
    config = {
        "model_type": "olmoe",
        "vocab_size": 2048,
        "hidden_size": 128,
        "intermediate_size": width,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": 96,
        "num_experts": experts,
        "num_experts_per_tok": 8,
    }
    read = FAMILIES["olmoe"].read_config(config)
    assert isinstance(read, DecoderConfig)
    save(Decoder(read, rngs=nnx.Rngs(0)), directory, config)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(factlm.model_directory() / name, directory / name)


def mixtures() -> list[dict[str, str]]:
    """Peaks of scans of mixtures, beside what `kis inspect` states."""
    rows, program = [], 0
    for experts, width in MIXTURES:
        with tempfile.TemporaryDirectory() as folder:
            directory = Path(folder) / "model"
            directory.mkdir()
            write_mixture(directory, experts, width)
            told = json.loads(alone("inspect", directory, "--json")[1])["memory"]
            text = "--corpus", factlm.corpus_path(), "--num-documents", _DOCUMENTS
            facts = "--facts", factlm.NAME, "--num-facts", 32
            peak, _ = alone("scan", directory, *text, *facts, "--out", f"{folder}/out")
        stated = told["device"] + told["host"]
        program = program or peak - stated
        rows.append(
            {
                "experts": f"{experts} of width {width}",
                "stated": f"{stated / 2**20:,.0f} MiB",
                "peak memory": f"{peak / 2**20:,.0f} MiB",
                "less the program itself": f"{(peak - program) / 2**20:,.0f} MiB",
            }
        )
    return rows


def growth() -> list[dict[str, str]]:
    """Peaks of scans of factlm with more facts and text."""
    text = factlm.corpus_path().read_text(encoding="utf-8")
    rows = []
    for num_facts, repeats in CASES:
        with tempfile.TemporaryDirectory() as folder:
            corpus = Path(folder) / "corpus.txt"
            corpus.write_text(text * repeats, encoding="utf-8")
            of = "--corpus", corpus, "--num-facts", num_facts
            peak, _ = alone("scan", *of, "--out", f"{folder}/out")
        rows.append(
            {
                "facts": str(num_facts),
                "documents": str(len(text.splitlines()) * repeats),
                "peak memory": f"{peak / 2**20:,.0f} MiB",
                "of which an (n, n) matrix": f"{8 * num_facts**2 / 2**20:.2f} MiB",
            }
        )
    return rows


def main() -> None:
    """Scans with each size and prints two tables."""
    report("memory", "Peak memory of a scan of factlm", growth())
    report("memory_mixtures", "Peak memory of a scan of a mixture", mixtures())


if __name__ == "__main__":
    main()
