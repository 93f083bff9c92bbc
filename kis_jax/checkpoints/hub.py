"""Where a model is: a local directory, or a hub name fetched into the local cache."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from huggingface_hub import list_repo_files, snapshot_download

from kis_jax import factlm
from kis_jax.checkpoints.companions import COMPANIONS
from kis_jax.checkpoints.tensors import INDEX, MSGPACK, SINGLE

_SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")
GGUF = b"GGUF"  # how these files begin
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


def locate(name_or_path: str | Path, *, weights: bool = True) -> Path:
    """The local directory of a model.

    "factlm" is the embedded model; a path that exists is taken as it is; any other name is looked
    up on the HuggingFace hub, and its configuration, tokenizer and one set of its weights (never
    pickles) are fetched into the local cache; without a network, what is there is taken.

    Args:
      name_or_path: of the model.
      weights: whether weights and tokenizer are fetched from the hub, or its configuration alone.

    Raises:
      ValueError: if there is neither such a directory nor such a model, or the hub does not
        answer.
    """
    if name_or_path == factlm.NAME:
        return factlm.model_directory()
    name = str(name_or_path)
    path = Path(name)
    try:
        if name and path.is_dir():
            return path
        is_file = bool(name) and path.exists()
    except OSError as error:  # such as a name that is too long
        raise ValueError(f"{name[:80]}: expected a directory, found {error.strerror}") from None
    if is_file:
        raise ValueError(
            f"{path}: expected a directory in HuggingFace layout, found a {_kind(path)}"
        )
    if isinstance(name_or_path, Path) or not _HUB_NAME.fullmatch(name):
        raise ValueError(f"{name!r}: no such directory, and not of the form of a hub name")
    try:
        return _fetch(name, weights=weights)
    except Exception as error:  # hub errors, httpx's and the system's, by many classes
        reason = (str(error).strip() or "no message").splitlines()[0]
        raise ValueError(
            f"{name}: no such local directory, and the hub gave none "
            f"({type(error).__name__}: {reason}); check the name, or download the model where "
            "there is a network and pass the path of its directory"
        ) from error


def _kind(path: Path) -> str:
    """Of a file that was named as a model, with the way out where there is one."""
    with path.open("rb") as file:
        if file.read(4) != GGUF:
            return "file"
    return (
        "GGUF file; of Llama's architecture, `python -m scripts.real_models --gguf FILE --out DIR` "
        "in a checkout of kis_jax writes such a directory, of others take the original"
    )


def _fetch(name: str, *, weights: bool) -> Path:
    """A model of the hub, or what the local cache has of it."""
    if not weights:
        return Path(snapshot_download(name, allow_patterns=["config.json"]))
    try:
        names = list_repo_files(name)
    except Exception as error:  # no network, no such model, no leave to see it
        try:
            return Path(snapshot_download(name, local_files_only=True))
        except Exception:
            raise error from None
    return Path(snapshot_download(name, allow_patterns=wanted(names)))


def wanted(names: Iterable[str]) -> list[str]:
    """Which files of a repository a model is loaded from: those at its top, in one format.

    Many hold the same weights several times over: for other frameworks, in folders, and as the
    authors' own format beside that of transformers.

    Examples:
      >>> wanted(["config.json", "model.safetensors", "onnx/model.onnx", "flax_model.msgpack"])
      ['config.json', 'model.safetensors']
    """
    names = set(names)
    if SINGLE in names:
        weights = {SINGLE}
    elif INDEX in names:
        weights = {INDEX} | {name for name in names if _SHARD.fullmatch(name)}
    else:
        weights = {MSGPACK}
    found = sorted(names & (weights | COMPANIONS))
    if not names & weights:
        raise ValueError(
            f"expected {SINGLE}, {INDEX} or {MSGPACK} among its files, found none; if its weights "
            "are pickles, load it once with torch transformers in a place you trust, and call "
            "model.save_pretrained(...), which writes safetensors"
        )
    return found
