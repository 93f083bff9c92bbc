"""Small random models in the layouts of large ones: for trying what will be run on those."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from flax import nnx

from kis_jax import checkpoints, factlm
from kis_jax.models import Decoder, DecoderConfig
from kis_jax.models.families import FAMILIES

_VOCABULARY = 2048
_CONTEXT = 96
_LAYERS = 2
_HEADS = 2
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")

KINDS = ("gpt2", "gptj", "gpt_neox", "llama")


def write_stand_in(directory: Path, kind: str, *, width: int = 32, seed: int = 0) -> None:
    """Writes a decoder of two layers with random weights, and factlm's tokenizer.

    Args:
      directory: receives a checkpoint in HuggingFace layout, named as its family names tensors.
      kind: one of `KINDS`, its family.
      width: of the residual stream, a multiple of 16.
      seed: of the weights.

    Raises:
      ValueError: when the kind is not one of these, or the width is not a multiple of 16.
    """
    if kind not in KINDS:
        raise ValueError(f"kind: expected one of {', '.join(KINDS)}, found {kind!r}")
    if width < 16 or width % 16:
        raise ValueError(f"width: expected a multiple of 16, found {width}")
    attributes = _attributes(kind, width)
    config = FAMILIES[kind].read_config(attributes)
    assert isinstance(config, DecoderConfig)
    checkpoints.save(_random(config, seed), directory, attributes)
    for name in _TOKENIZER_FILES:
        shutil.copyfile(factlm.model_directory() / name, directory / name)


@functools.partial(jax.jit, static_argnames=("config", "seed"))
def _random(config: DecoderConfig, seed: int) -> Decoder:
    """Compiled as a whole, which takes less time than each of its small arrays for itself."""
    return Decoder(config, rngs=nnx.Rngs(seed))


def _attributes(kind: str, width: int) -> Mapping[str, Any]:
    """Of `config.json`, under the names that the family gives them."""
    if kind in ("gpt2", "gptj"):
        sizes = {"n_embd": width, "n_layer": _LAYERS, "n_head": _HEADS, "n_positions": _CONTEXT}
        return {"vocab_size": _VOCABULARY, **sizes, **({"rotary_dim": 4} if kind == "gptj" else {})}
    return {
        "vocab_size": _VOCABULARY,
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": _LAYERS,
        "num_attention_heads": _HEADS,
        "max_position_embeddings": _CONTEXT,
    }
