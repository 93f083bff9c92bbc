"""A scan with `--stream` of a model that does not fit its memory: peak memory, and rate.

    python -m benchmarks.stream [--tokens 6000] [--memory 2900MB] [--keep]

Makes a checkpoint of Llama 3.2 3B's shape on the spot: random bfloat16 weights, 28 layers, width
3,072, keys of 8,192, 6.4 GB; scans it with the command itself in a process of its own, under
`--memory`, and deletes it. The corpus is the embedded one, its lines joined to texts of some 1,000
tokens. Needs 20 GB of disk, and 7.6 GFLOP for each token: 6,000 tokens take five minutes or ten on
two cores. So few tokens leave C singular, hence a ridge.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import ml_dtypes
import numpy as np

SHAPE = {
    "model_type": "llama",
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_hidden_layers": 28,
    "num_attention_heads": 24,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "tie_word_embeddings": True,
    "hidden_act": "silu",
}
LENGTH = 1024  # tokens at which texts are cut


def make_checkpoint(directory: Path) -> int:
    """Writes config, tokenizer and weights; their number of bytes."""
    from kis_jax import factlm
    from kis_jax.checkpoints.opening import parameter_shapes, read_config
    from kis_jax.checkpoints.table import expand
    from kis_jax.checkpoints.writing import Unwritten, write_weights

    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(SHAPE))
    for path in factlm.model_directory().glob("tokenizer*"):
        shutil.copy(path, directory)
    block = np.random.default_rng(0).normal(0, 0.02, 2**24 + 4099).astype(ml_dtypes.bfloat16)

    def values(shape: tuple[int, ...], seed: int) -> np.ndarray:
        if len(shape) == 1:  # a norm's
            return np.ones(shape, ml_dtypes.bfloat16)
        return np.resize(np.roll(block, seed * 9973), shape)

    entries = expand(*_family(directory, read_config, parameter_shapes))
    tensors = {
        entry.source: Unwritten(
            entry.shape,
            np.dtype(ml_dtypes.bfloat16),
            lambda shape=entry.shape, seed=seed: values(shape, seed),
        )
        for seed, entry in enumerate(entries)
    }
    write_weights(directory, tensors, metadata={"format": "pt"}, max_shard_size=2 * 10**9)
    return sum(tensor.size for tensor in tensors.values())


def _family(directory, read_config, parameter_shapes):
    family, config = read_config(directory)
    return family, parameter_shapes(family, config)


def make_corpus(path: Path, tokens: int) -> None:
    """Texts of `LENGTH` tokens or a little more, as many as make so many tokens."""
    from kis_jax import factlm
    from kis_jax.checkpoints.tokenizers import load_tokenizer

    tokenizer = load_tokenizer(factlm.model_directory())
    assert tokenizer is not None
    lines = factlm.corpus_path().read_text().splitlines()
    texts, text, held, total = [], [], 0, 0
    for line in lines:
        text.append(line)
        held += len(tokenizer.tokenize(line))
        if held > LENGTH + 8:
            texts.append(" ".join(text))
            total += LENGTH
            text, held = [], 0
        if total >= tokens:
            break
    path.write_text("\n".join(texts))


def needed_flops(length: int) -> float:
    """Operations for each token of texts of one length: what the pass must compute, no more."""
    d, m = SHAPE["hidden_size"], SHAPE["intermediate_size"]
    shared = SHAPE["num_key_value_heads"] * SHAPE["head_dim"]
    projections = 2 * (2 * d * d + 2 * d * shared + 3 * d * m)
    attention = 2 * 2 * d * length / 2
    return SHAPE["num_hidden_layers"] * (projections + attention + m * (m + 1))


def child(arguments: list[str]) -> None:
    """The command, with a clock around the pass; a last line of JSON."""
    from benchmarks.harness import peak_flops
    from kis_jax import cli
    from kis_jax.cli import measuring

    before = peak_flops()
    original, spent = measuring._streamed, []

    def timed(*given, **options):
        start = time.perf_counter()
        found = original(*given, **options)
        spent.append(time.perf_counter() - start)
        return found

    measuring._streamed = timed
    sys.argv = ["kis", *arguments]
    try:
        cli.main()
    except SystemExit as end:
        if end.code:
            raise
    status = Path("/proc/self/status").read_text().splitlines()
    held = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    peak_flops.cache_clear()
    after = peak_flops()
    print(json.dumps({"seconds": spent[0], "peak": [before, after], "memory": held * 1024}))


def main() -> None:
    """Makes, scans, deletes; prints one table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--tokens", type=int, default=6000)
    parser.add_argument("--memory", default="2900MB")
    parser.add_argument("--keep", action="store_true", help="keep the folder, and print it")
    given = parser.parse_args()
    place = Path(tempfile.mkdtemp(prefix="kis-stream-"))
    try:
        size = make_checkpoint(place / "model")
        make_corpus(place / "corpus.txt", given.tokens)
        command = [
            *("scan", place / "model", "--facts", "factlm", "--corpus", place / "corpus.txt"),
            *("--num-facts", 16, "--layers", "0,27", "--ridge", 1e-3, "--document-length", LENGTH),
            *("--out", place / "out", "--stream", "--memory", given.memory),
        ]
        code = f"from benchmarks.stream import child; child({list(map(str, command))!r})"
        done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        if done.returncode:
            sys.exit(done.returncode)
        print(done.stdout)
        found = json.loads(done.stdout.splitlines()[-1])
        record = json.loads((place / "out" / "scan.json").read_text())
    finally:
        if given.keep:
            print(place)
        else:
            shutil.rmtree(place, ignore_errors=True)
    _report(found, record, size)


def _report(found: dict, record: dict, size: int) -> None:
    from benchmarks.harness import report

    tokens = record["token_count"]
    rate, peak = tokens * needed_flops(LENGTH) / found["seconds"], max(found["peak"])
    parameters = record["architecture"]["num_parameters"]
    rows = [
        {"": "checkpoint", "measured": f"{size / 1e9:.2f} GB, {parameters / 1e9:.2f}e9 parameters"},
        {"": "tokens of the corpus", "measured": f"{tokens:,}"},
        {"": "peak memory of the whole command", "measured": f"{found['memory'] / 1e9:.2f} GB"},
        {"": "the pass", "measured": f"{found['seconds']:.0f} s: {rate / 1e9:.0f} GFLOP/s needed"},
        {"": "matrix product, same run", "measured": f"{peak / 1e9:.0f} GFLOP/s"},
        {"": "share", "measured": f"{rate / peak:.0%}"},
    ]
    report("stream", "kis scan --stream, Llama 3.2 3B's shape, random bfloat16 weights", rows)


if __name__ == "__main__":
    main()
