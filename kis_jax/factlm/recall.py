"""How many of its facts a model knows: greedy recall of the true object."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from tokenizers import Tokenizer

from kis_jax.factlm.world import World
from kis_jax.models import Decoder


def recall(model: Decoder, tokenizer: Tokenizer, world: World) -> dict[str, float]:
    """Shares of prompts that the model continues, greedily, with the whole true object.

    Args:
      model: the model.
      tokenizer: its tokenizer.
      world: the facts.

    Returns:
      `prompts`: over the main prompts of all facts; `held_out_paraphrases`: over the
      paraphrases that were kept out of training; `trained_paraphrases`: over the others.
    """
    facts = world.facts
    asked = {
        "prompts": [(f.prompt.format(f.subject), f.target_true) for f in facts],
        "held_out_paraphrases": [
            (prompt.format(f.subject), f.target_true)
            for f in facts
            if f.held_out
            for prompt in f.paraphrases
        ],
        "trained_paraphrases": [
            (prompt.format(f.subject), f.target_true)
            for f in facts
            if not f.held_out
            for prompt in f.paraphrases
        ],
    }
    return {name: float(known(model, tokenizer, pairs).mean()) for name, pairs in asked.items()}


def known(
    model: Decoder, tokenizer: Tokenizer, asked: Sequence[tuple[str, str]], rows: int = 256
) -> np.ndarray:
    """Which prompts are continued with their objects, `(n,)` bool.

    That every token of the object is the likeliest after the prompt and the object's own
    earlier tokens is the same as greedy decoding yielding the object, in one pass.

    Args:
      model: the model.
      tokenizer: its tokenizer.
      asked: prompts, and the objects that should follow after a space.
      rows: prompts in one batch.
    """
    starts = [len(tokenizer.encode(prompt).ids) for prompt, _ in asked]
    texts = [tokenizer.encode(f"{prompt} {target}").ids for prompt, target in asked]
    ends = [len(ids) for ids in texts]
    tokens = np.zeros((-(-len(texts) // rows) * rows, max(ends)), np.int32)
    for row, ids in zip(tokens, texts, strict=False):
        row[: len(ids)] = ids
    likeliest = np.concatenate(
        [np.asarray(_likeliest(model, part)) for part in tokens.reshape(-1, rows, max(ends))]
    )
    # The guess for a token stands at the token before it.
    place = np.arange(1, max(ends))
    beside = (place < np.array(starts)[:, None]) | (place >= np.array(ends)[:, None])
    right = likeliest[: len(texts), :-1] == tokens[: len(texts), 1:]
    return np.all(right | beside, axis=1)


@jax.jit
def _likeliest(model: Decoder, tokens: jax.Array) -> jax.Array:
    # Causal attention: padding on the right changes nothing before it.
    return jnp.argmax(model(tokens), axis=-1)
