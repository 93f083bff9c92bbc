"""A small encoder that has learned nothing yet, for puzzles whose few words it is made for."""

from __future__ import annotations

import collections
import functools
import json
from collections.abc import Iterable
from pathlib import Path

import jax
from flax import nnx
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from kis_jax.checkpoints.multiple_choice import save_multiple_choice
from kis_jax.models import Encoder, EncoderConfig, MultipleChoice
from kis_jax.models.families import bert

SCRATCH = "scratch"
"""Stands for such an encoder wherever a path or a hub name is asked for."""

_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
_MOST_WORDS = 8000
_CONTEXT = 128
_SIZES = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 256,
    "max_position_embeddings": _CONTEXT,
    "layer_norm_eps": 1e-6,
    "pad_token_id": 0,
}


def make_scratch(directory: Path, texts: Iterable[str], *, seed: int) -> None:
    """Writes a BERT of two layers with random weights, and a tokenizer of whole words.

    The same texts and seed give the same files.

    Args:
      directory: that is made, in HuggingFace layout.
      texts: whose words the tokenizer knows, the most frequent 8,000; all others are one to it.
      seed: of the weights.
    """
    tokenizer = _word_tokenizer(texts)
    config = {"vocab_size": tokenizer.get_vocab_size(), **_SIZES}
    model = _random(bert.read_config(config), seed)
    save_multiple_choice(model, directory, config, companions=None)
    tokenizer.save(str(directory / "tokenizer.json"))
    names = zip(("pad_token", "unk_token", "cls_token", "sep_token"), _SPECIAL, strict=True)
    about = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": _CONTEXT}
    (directory / "tokenizer_config.json").write_text(json.dumps({**about, **dict(names)}, indent=2))


@functools.partial(jax.jit, static_argnames=("config", "seed"))
def _random(config: EncoderConfig, seed: int) -> MultipleChoice:
    """Compiled as a whole, which takes less time than each of its small arrays for itself."""
    rngs = nnx.Rngs(seed)
    return MultipleChoice(Encoder(config, rngs=rngs), rngs=rngs)


def _word_tokenizer(texts: Iterable[str]) -> Tokenizer:
    """Words in lower case, punctuation apart, `[CLS] question [SEP] choice [SEP]`."""
    normalizer = normalizers.BertNormalizer(lowercase=True)
    splitter = pre_tokenizers.BertPreTokenizer()
    counted = collections.Counter(
        word
        for text in texts
        for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text))
    )
    frequent = sorted(counted, key=lambda word: (-counted[word], word))[:_MOST_WORDS]
    vocabulary = {word: place for place, word in enumerate((*_SPECIAL, *frequent))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = splitter
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return tokenizer
