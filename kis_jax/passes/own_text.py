"""Text that a model writes itself, as a corpus: where there is no other, nor a network."""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerFast

from kis_jax.checkpoints.files import cache_folder, write_atomically
from kis_jax.data.batches import bytes_per_token, host_memory
from kis_jax.data.corpora import Corpus, open_corpus
from kis_jax.models import Decoder, Model, ModelConfig
from kis_jax.passes.scores.generation import sample_tokens

SELF = "self"
NUM_DOCUMENTS = 100_000  # of other text, if no number is named

_LENGTH = 128  # tokens of a text, the first included
_TEXTS = 128  # written at once, at most: as many as make products fast
_TOKENS_PER_DIMENSION = 32
_SEED = 0
# Where texts stand that are held out from those that are counted: beyond any number of these.
HELD_OUT = 1 << 24
Written = tuple[str, int]  # a text, empty where it ended at once, and its number of tokens
_VERSION = 1  # of the way in which texts are written; part of their fingerprint


def open_text(
    source: str,
    *,
    limit: int | None,
    config: ModelConfig,
    tokenizer: PreTrainedTokenizerFast,
    model: str,
    start: int = 0,
) -> Corpus:
    """A corpus as `open_corpus` opens it, or with "self" what the model writes.

    Each text starts with one random token, every one of the vocabulary that is text as likely as
    another; the others are drawn as likely as the model says, up to 128 tokens, its context, or
    the end of the text. All is decided by the model and the place of a text in the corpus, so that
    it is the same in every run on one kind of machine. What has been written is kept in the folder
    that `KIS_CACHE` names, `~/.cache/kis_jax` if none, and read from there the next time.

    Args:
      source: see `open_corpus`; or "self".
      limit: the most documents to take; if None, 100,000, or of text that the model writes as many
        as hold 32 tokens for each dimension of its keys; of a mixture, an expert's, for each expert
        on average.
      config: of the model.
      tokenizer: of the model.
      model: the fingerprint of its weights.
      start: the place from which on texts are taken that the model writes, a multiple of 128.

    Raises:
      ValueError: as `open_corpus`; or if an encoder is asked to write.
    """
    if source != SELF:
        return open_corpus(source, limit=NUM_DOCUMENTS if limit is None else limit)
    if limit is not None and limit < 1:
        raise ValueError(f"num_documents: expected a positive number, found {limit}")
    if not config.causal:
        raise ValueError(
            f"corpus: expected text, as an encoder ({config.family}) writes none itself; name a "
            "file, a folder or a hub name with --corpus"
        )
    digest = hashlib.sha256(f"{SELF}:{_VERSION}:{_SEED}:{_LENGTH}:{model}".encode())
    digest.update(json.dumps(sorted(tokenizer.get_vocab().items())).encode())
    folder = cache_folder() / digest.hexdigest()[:32]
    parts = functools.partial(_parts, tokenizer, folder, start // _TEXTS)
    tokens = _TOKENS_PER_DIMENSION * config.memory_width // config.experts_per_token
    return Corpus(
        SELF,
        _held_by_nobody,
        limit,
        hashlib.sha256(
            f"{digest.hexdigest()}:{limit}{f':{start}' * bool(start)}".encode()
        ).hexdigest(),
        lambda model: _texts(parts(model), limit, tokens),
    )


def _held_by_nobody() -> Iterator[str]:
    raise ValueError(
        f"corpus: expected text, as only a model that one device holds writes its own ({SELF}); "
        "name a file, a folder or a hub name with --corpus"
    )


def _texts(parts: Iterator[list[Written]], limit: int | None, tokens: int) -> Iterator[str]:
    """So many of them; if that is not said, as many as come to so many tokens."""
    done = counted = 0
    for text, count in itertools.chain.from_iterable(parts):
        if done == limit or (limit is None and counted >= tokens):
            return
        if text.strip():
            done, counted = done + 1, counted + count
            yield text


def _parts(
    tokenizer: PreTrainedTokenizerFast, folder: Path, first: int, model: Model
) -> Iterator[list[Written]]:
    """Texts from the cache, and from the model where the cache ends."""
    if not isinstance(model, Decoder):
        raise ValueError("model: expected a decoder, which writes text, found an encoder")
    for part in itertools.count(first):
        path = folder / f"{part:05d}.json"
        texts = _kept(path)
        if texts is None:
            texts = _write(model, tokenizer, part)
            if part == first and not any(text.strip() for text, _ in texts):
                raise ValueError(
                    "corpus: expected text that the model writes itself, found nothing but its "
                    f"end-of-text token after {len(texts)} first tokens; name other text with "
                    "--corpus"
                )
            _keep(path, texts)
        yield texts


def _write(model: Decoder, tokenizer: PreTrainedTokenizerFast, part: int) -> list[Written]:
    """One part of the texts: those of `_TEXTS` places; empty where the text ended at once."""
    places = np.arange(part * _TEXTS, (part + 1) * _TEXTS)
    special = set(tokenizer.all_special_ids)
    special |= {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    before = _before(tokenizer)
    length = min(_LENGTH, model.config.context_length)
    first = np.array([_first(tokenizer, special, model.config.vocab_size, int(i)) for i in places])
    starts = np.concatenate([np.tile(before, (len(places), 1)), first[:, None]], axis=1)
    added = length - starts.shape[1]
    if added < 1:
        raise ValueError(
            f"corpus: expected a context of more than {starts.shape[1]} tokens, in which a model "
            f"can write, found {length}; name text with --corpus"
        )
    rows = _rows(model.config, length)
    written = np.concatenate(
        [
            sample_tokens(
                model,
                starts[at : at + rows],
                num_tokens=added,
                places=places[at : at + rows],
                seed=_SEED,
            )
            for at in range(0, len(places), rows)
        ]
    )
    texts = []
    for start, following in zip(first.tolist(), written.tolist(), strict=True):
        own = list(itertools.takewhile(lambda token: token not in special, following))
        text = tokenizer.decode([start, *own], clean_up_tokenization_spaces=False) if own else ""
        texts.append((str(text), starts.shape[1] + len(own)))
    return texts


def _first(
    tokenizer: PreTrainedTokenizerFast, special: set[int], vocab_size: int, place: int
) -> int:
    """The random token that a text starts with: no special one, no piece of a character."""
    rng = np.random.default_rng([_SEED, place])
    known = min(vocab_size, len(tokenizer))
    for token in map(int, rng.integers(known, size=1000)):
        text = "" if token in special else str(tokenizer.decode([token]))
        if text.strip() and "\ufffd" not in text:
            return token
    raise ValueError(
        "corpus: expected a tokenizer with tokens that are text, found none in 1,000; name text "
        "with --corpus"
    )


def _before(tokenizer: PreTrainedTokenizerFast) -> np.ndarray:
    """The special tokens that the tokenizer puts before a text, `(k,)`."""
    encoded = tokenizer("a", return_special_tokens_mask=True)
    own = encoded["special_tokens_mask"].index(0)
    return np.array(encoded["input_ids"][:own], np.int64)


def _rows(config: ModelConfig, length: int) -> int:
    """How many texts to write at once: a power of two, their attention in an eighth of memory."""
    kept = 8 * config.num_layers * config.num_kv_heads * config.head_dim
    room = host_memory() // 8 // (length * kept + bytes_per_token(config, length))
    return min(_TEXTS, 1 << max(0, int(room).bit_length() - 1))


def _kept(path: Path) -> list[Written] | None:
    """A part that was written earlier; None if there is none, or none that can be read."""
    try:
        texts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(texts, list) or len(texts) != _TEXTS:
        return None
    if not all(isinstance(pair, list) and [*map(type, pair)] == [str, int] for pair in texts):
        return None
    return [(text, count) for text, count in texts]


def _keep(path: Path, texts: list[Written]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with write_atomically(path) as temporary:
            temporary.write_text(json.dumps(texts), encoding="utf-8")
    except OSError as error:
        raise ValueError(
            f"{path}: expected a folder in which text that a model wrote can be kept, found "
            f"{error.strerror}; name one by the variable KIS_CACHE"
        ) from None
