"""Text after prompts, token by token, on top of what attention kept of the tokens before."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from transformers import PreTrainedTokenizerFast

from kis_jax.data.batches import fill_batches, token_budget
from kis_jax.models import Decoder, Model, Past


def generate(
    model: Model,
    tokenizer: PreTrainedTokenizerFast,
    prompts: Sequence[str] | Sequence[list[int]],
    *,
    num_tokens: int,
    top_k: int = 5,
    seed: int = 0,
) -> list[str]:
    """Continues prompts by sampling.

    Each prompt has its own random numbers, so that what follows it depends on the seed and its
    place in the list, not on the prompts beside it.

    Args:
      model: a decoder.
      tokenizer: of the model.
      prompts: of at least one token each; texts, or their tokens as they are.
      num_tokens: how many tokens to add.
      top_k: how many of the likeliest tokens to choose from; 1 takes the likeliest.
      seed: of the random numbers.

    Returns:
      For each prompt what follows it, the prompt not included, up to the end of the text if the
      model says where that is.

    Raises:
      ValueError: if the model is an encoder, a prompt has no token or leaves no room in the
        context, or a number is out of range.

    Examples:
      >>> from kis_jax import load
      >>> model, tokenizer = load("factlm")
      >>> generate(model, tokenizer, ["The mother tongue of Vera Holm"], num_tokens=1, top_k=1)
      [' is']
    """
    if not isinstance(model, Decoder):
        raise ValueError(
            f"model: expected a decoder, which says what follows a prompt, found an encoder "
            f"({model.config.family}); choose a causal language model"
        )
    if not 1 <= top_k <= model.config.vocab_size:
        raise ValueError(
            f"top_k: expected 1 to {model.config.vocab_size}, the vocabulary, found {top_k}"
        )
    if num_tokens < 1:
        raise ValueError(f"num_tokens: expected at least 1, found {num_tokens}")
    texts = [_tokens(prompt, tokenizer, model, num_tokens) for prompt in prompts]
    longest = max(map(len, texts), default=1)
    # A text holds its continuation as well.
    budget = max(1, token_budget(model.config) * longest // (longest + num_tokens))
    found = [""] * len(texts)
    for batch in fill_batches(texts, model.config, token_budget=budget):
        places = np.zeros(len(batch.tokens), np.uint32)
        places[: len(batch.rows)] = batch.rows
        mask = batch.mask | (np.arange(batch.mask.shape[1]) == 0)  # empty rows need one token
        added = _continue(
            model, batch.tokens, mask, places, jnp.uint32(seed), num_tokens=num_tokens, top_k=top_k
        )
        for row, continuation in zip(batch.rows, np.asarray(added).tolist(), strict=False):
            found[row] = _text(texts[row], continuation, tokenizer)
    return found


def sample_tokens(
    model: Decoder, tokens: np.ndarray, *, num_tokens: int, places: np.ndarray, seed: int = 0
) -> np.ndarray:
    """What a model writes after texts of one length, each token drawn as likely as it says.

    Args:
      model: a decoder.
      tokens: `(b, t)` int32, with room in the context for `num_tokens` more.
      num_tokens: how many to add.
      places: `(b,)`, a whole number for each text that its random numbers depend on, so that it
        does not matter which texts are run together.
      seed: of the random numbers.

    Returns:
      The tokens added, `(b, num_tokens)` int32.

    Examples:
      >>> import numpy as np
      >>> from kis_jax import load
      >>> model, tokenizer = load("factlm")
      >>> sample_tokens(model, np.array([[500]]), num_tokens=3, places=np.array([0])).shape
      (1, 3)
    """
    mask = np.ones(tokens.shape, bool)
    places = np.asarray(places, np.uint32)
    tokens = np.asarray(tokens, np.int32)
    drawn = _continue(
        model, tokens, mask, places, jnp.uint32(seed), num_tokens=num_tokens, top_k=None
    )
    return np.asarray(drawn)


def _tokens(
    prompt: str | list[int], tokenizer: PreTrainedTokenizerFast, model: Decoder, num_tokens: int
) -> list[int]:
    """A prompt's tokens, without special ones that would end the text."""
    if isinstance(prompt, str):
        encoded = tokenizer(prompt, return_special_tokens_mask=True)
        tokens, special = encoded["input_ids"], encoded["special_tokens_mask"]
        while len(tokens) > 1 and special[len(tokens) - 1]:
            tokens = tokens[:-1]
    else:
        tokens = prompt
    if not tokens:
        raise ValueError(f"prompt {prompt!r}: expected at least one token, found none")
    limit = model.config.context_length
    if len(tokens) + num_tokens > limit:
        raise ValueError(
            f"prompt {prompt!r}: expected at most {limit - num_tokens} tokens, to leave room for "
            f"{num_tokens} in the context, found {len(tokens)}; shorten it or ask for fewer"
        )
    return tokens


def _text(prompt: list[int], added: list[int], tokenizer: PreTrainedTokenizerFast) -> str:
    """What was added, as it reads after the prompt: some tokenizers drop a first blank."""
    if tokenizer.eos_token_id in added:
        added = added[: added.index(tokenizer.eos_token_id)]
    before, whole = (
        str(tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False))
        for tokens in (prompt, prompt + added)
    )
    return whole[len(before) :]


@functools.partial(jax.jit, static_argnames=("num_tokens", "top_k"))
def _continue(
    model: Decoder,
    tokens: Array,
    mask: Array,
    places: Array,
    seed: Array,
    *,
    num_tokens: int,
    top_k: int | None,
) -> Array:
    """The tokens after texts `(b, t)` padded on the right, `(b, num_tokens)`."""
    b, t = tokens.shape
    seeds = jax.vmap(lambda place: jax.random.fold_in(jax.random.key(seed), place))(places)

    def choose(stream: Array, step: Array) -> Array:
        logits = model.finish(stream)
        draws = jax.vmap(lambda own: jax.random.fold_in(own, step))(seeds)
        if top_k is None:
            return _drawn(logits, jax.vmap(jax.random.uniform)(draws))
        best, which = jax.lax.top_k(logits, top_k)
        drawn = jax.vmap(jax.random.categorical)(draws, best)
        return jnp.take_along_axis(which, drawn[:, None], axis=1)[:, 0]

    def step(carry: tuple[Past, Array, Array], place: Array) -> tuple[tuple, Array]:
        past, seen, token = carry
        both = jnp.concat([seen, jnp.ones((b, 1), bool)], axis=1)
        stream, new = model.run(
            model.embed(token[:, None], both), both, past=past, watch=lambda glimpse: glimpse.past
        )
        past = jax.tree.map(
            lambda kept, one: jax.lax.dynamic_update_slice_in_dim(kept, one, t + place, axis=2),
            past,
            new,
        )
        seen = seen | (jnp.arange(t + num_tokens) == t + place)
        following = choose(stream[:, 0], place + 1)
        return (past, seen, following), following

    stream, past = model.run(model.embed(tokens, mask), mask, watch=lambda glimpse: glimpse.past)
    last = stream[jnp.arange(b), jnp.sum(mask, axis=1) - 1]
    room = ((0, 0), (0, 0), (0, num_tokens), (0, 0), (0, 0))
    past = jax.tree.map(lambda kept: jnp.pad(kept, room), past)
    seen = jnp.pad(mask, ((0, 0), (0, num_tokens)))
    first = choose(last, jnp.array(0))
    _, rest = jax.lax.scan(step, (past, seen, first), jnp.arange(num_tokens - 1))
    return jnp.concat([first[:, None], rest.T], axis=1)


def _drawn(logits: Array, uniform: Array) -> Array:
    """A token of each row, by the inverse of its distribution: one random number, not one a token.

    Args:
      logits: `(b, v)`.
      uniform: `(b,)`, from 0 up to 1.
    """
    up_to = jnp.cumsum(jnp.exp(logits - jnp.max(logits, axis=1, keepdims=True)), axis=1)
    below = jnp.sum(up_to <= uniform[:, None] * up_to[:, -1:], axis=1, dtype=jnp.int32)
    return jnp.minimum(below, logits.shape[1] - 1)
