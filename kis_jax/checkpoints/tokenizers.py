"""Tokenizers: the fast one of a checkpoint directory, by transformers."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from tokenizers import Tokenizer
from transformers import (
    AutoConfig,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
)

from kis_jax.checkpoints.companions import SENTENCEPIECE, TOKENIZERS
from kis_jax.checkpoints.files import find, read_json

_READ = (".json", ".txt", ".model", ".jinja")  # what files of tokenizers end in
_TEMPLATES = "additional_chat_templates"
# What normalizers and splitters differ in: case, accents, width, blanks, digits, scripts.
_PROBES = (
    "The Eiffel Tower is located in the city of",
    " It's 1,234.5 km;  two   blanks\n\nand\ta tab ",
    "Zürich, São Paulo, Ångström and naïve CAFÉ",
    "ﬁne ½ ＦＵＬＬ ① … “quoted” – dashes",
    "Москва 東京 서울 القاهرة 👍🏽",
    "snake_case camelCase x==y (a+b)*2 http://a.b/c?d=1",
)


def require_tokenizer(directory: Path) -> PreTrainedTokenizerFast:
    """The tokenizer of a directory.

    Raises:
      ValueError: if it holds no file of one, or as `load_tokenizer`.
    """
    tokenizer = load_tokenizer(directory)
    if tokenizer is None:
        raise ValueError(
            f"{directory}: expected files of a tokenizer beside the model, found none; copy "
            "tokenizer.json there"
        )
    return tokenizer


def load_tokenizer(directory: Path) -> PreTrainedTokenizerFast | None:
    """The tokenizer of a directory; None if it holds no file of one.

    Raises:
      ValueError: if its files cannot be read, or give no fast tokenizer: the subject's token is
        found by character offsets, which only a fast one knows.
    """
    # Transformers follows links wherever they lead, and tokenizer_config.json may name files to
    # it: all that it could open are looked at before it opens any.
    for folder in (directory, directory / _TEMPLATES):
        for path in sorted(folder.glob("*")):
            if path.suffix in _READ and (path.is_symlink() or not path.is_dir()):
                find(directory, path.name, folder=folder)
    present = {name for name in TOKENIZERS if find(directory, name) is not None}
    if not present:
        return None
    raw = present.issubset(SENTENCEPIECE)
    if raw and importlib.util.find_spec("sentencepiece") is None:
        raise ValueError(_only(directory, present))
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            directory, local_files_only=True, trust_remote_code=False, config=_config(directory)
        )
    except Exception as error:  # tokenizers raises bare Exceptions, transformers many kinds
        reason = str(error).strip().splitlines()[:1]
        raise ValueError(
            f"{directory}: expected files of a tokenizer, found that transformers cannot read "
            f"them ({type(error).__name__}: {' '.join(reason)}); download them again"
        ) from error
    if raw and present.isdisjoint(tokenizer.vocab_files_names.values()):
        raise ValueError(_only(directory, present))  # transformers made one without a vocabulary
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ValueError(
            f"{directory}: expected a fast tokenizer, found {type(tokenizer).__name__}; save one "
            "with AutoTokenizer.from_pretrained(..., use_fast=True).save_pretrained(...)"
        )
    if "tokenizer.json" in present:
        _check_as_its_file(directory, tokenizer)
    return tokenizer


def _check_as_its_file(directory: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    """Raises ValueError if transformers makes other tokens than tokenizer.json, as it stands.

    Of some classes transformers reads the vocabulary alone, and makes all else anew. Special tokens
    around a text are not compared: tokenizer_config.json has a say in them.
    """
    stands = Tokenizer.from_file(str(directory / "tokenizer.json"))
    stands.no_truncation()
    stands.no_padding()
    for text in _PROBES:
        own = stands.encode(text, add_special_tokens=False).ids
        made = tokenizer(text, add_special_tokens=False)["input_ids"]
        if own != made:
            raise ValueError(
                f"{directory}: expected a tokenizer that is what tokenizer.json says, {own} for "
                f"{text!r}, found that transformers makes {made} of it as a "
                f"{type(tokenizer).__name__}; in a copy of tokenizer_config.json set "
                "tokenizer_class to PreTrainedTokenizerFast, which reads the file as it stands"
            )


def _only(directory: Path, present: set[str]) -> str:
    """What to say of a tokenizer that is there as SentencePiece trained it, and no more."""
    return (
        f"{directory}: expected tokenizer.json, found {' and '.join(sorted(present))} alone, which "
        "is no fast tokenizer yet; make one where sentencepiece and protobuf are installed: "
        "transformers.AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)"
    )


def _config(directory: Path) -> PreTrainedConfig | None:
    """What tells transformers the kind of tokenizer; None where it can read that file itself.

    A `config.json` that asks for the dtype "auto" it can write, and not read where torch is.
    """
    if find(directory, "config.json") is None:
        return None
    attributes = read_json(directory, "config.json")
    if "auto" not in (attributes.get("torch_dtype"), attributes.get("dtype")):
        return None
    rest = {
        name: value for name, value in attributes.items() if name not in ("dtype", "torch_dtype")
    }
    return AutoConfig.for_model(**rest)
