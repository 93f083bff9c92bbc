"""Fingerprints: what a model or a tokenizer is, whatever it is called and wherever it lies."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from kis_jax.checkpoints.tensors import weight_files

_WHOLE, _STEP, _PIECE = 2**26, 2**18, 2**12  # bytes, of `sampled`


def of_files(paths: Iterable[Path]) -> str:
    """SHA-256 of the contents of files, in the order given."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def of_model(directory: Path) -> str:
    """SHA-256 of a checkpoint's configuration and weights, every byte of them."""
    return of_files([directory / "config.json", *weight_files(directory)])


def sampled(directory: Path) -> str:
    """SHA-256 of a checkpoint's configuration and of a part of its weights: to tell two apart soon.

    Files of up to 64 MiB count whole; of larger ones their size, and 4 KiB of each 256 KiB, so that
    a matrix of which every entry has changed shows. It names no model: `of_model` does.
    """
    digest = hashlib.sha256()
    for path in (directory / "config.json", *weight_files(directory)):
        size = path.stat().st_size
        digest.update(str(size).encode())
        step, piece = (max(size, 1), size) if size <= _WHOLE else (_STEP, _PIECE)
        with path.open("rb") as file:
            for start in range(0, size, step):
                file.seek(start)
                digest.update(file.read(piece))
    return digest.hexdigest()


def of_tokenizer(tokenizer: PreTrainedTokenizerFast) -> str:
    """SHA-256 of all that decides how a tokenizer splits a text."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    for name in ("truncation", "padding"):  # set anew by every call
        state.pop(name, None)
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()
