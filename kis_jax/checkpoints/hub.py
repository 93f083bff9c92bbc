"""Where a model is: a local directory, or a hub name fetched into the local cache."""

from __future__ import annotations

import re
from pathlib import Path

from huggingface_hub import snapshot_download

from kis_jax import factlm

_PATTERNS = ["*.json", "*.safetensors", "flax_model.msgpack", "tokenizer.model", "*.txt"]
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


def locate(name_or_path: str | Path, *, weights: bool = True) -> Path:
    """The local directory of a model.

    "factlm" is the embedded model; a path that exists is taken as it is; any other name is looked
    up on the HuggingFace hub, and its configuration, tokenizer and weights (never pickles) are
    fetched into the local cache, or found there.

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
        raise ValueError(f"{path}: expected a directory in HuggingFace layout, found a file")
    if isinstance(name_or_path, Path) or not _HUB_NAME.fullmatch(name):
        raise ValueError(f"{name!r}: no such directory, and not of the form of a hub name")
    patterns = _PATTERNS if weights else ["config.json"]
    try:
        return Path(snapshot_download(name, allow_patterns=patterns))
    except Exception as error:  # hub errors, httpx's and the system's, by many classes
        reason = (str(error).strip() or "no message").splitlines()[0]
        raise ValueError(
            f"{name}: no such local directory, and the hub gave none "
            f"({type(error).__name__}: {reason}); check the name, or download the model where "
            "there is a network and pass the path of its directory"
        ) from error
