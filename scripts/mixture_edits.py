r"""What an edit of a mixture moves, foreseen from its ledger and measured on the model it wrote.

    kis edit out/mixture/model --facts out/mixture/facts.json --num-facts 5 \
        --corpus out/mixture/corpus.txt --layer 1 --out out/mixture/edited
    python -m scripts.mixture_edits out/mixture/edited --facts out/mixture/facts.json

after `scripts.train_factlm`, as in `scripts/mixture_study.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
import typer
from jax import Array

from kis_jax import load
from kis_jax.checkpoints.ledger_file import load_ledger
from kis_jax.checkpoints.loading import load_model
from kis_jax.core.arrays.precision import HOST
from kis_jax.core.editing.interference import interference
from kis_jax.data.facts import read_facts
from kis_jax.data.prompts import Prompt, tokenize_facts
from kis_jax.models import Model
from kis_jax.passes.keys import fact_keys

_BUDGET = 1024  # tokens run at once


def main(
    edited: Annotated[Path, typer.Argument(help="Folder that `kis edit` has written.")],
    facts: Annotated[str, typer.Option(help="Those that were edited come first.")],
    num_facts: Annotated[int, typer.Option(help="Of which values are read.")] = 128,
) -> None:
    """Prints, for each layer, how far the forecast is off on facts that were not edited."""
    ledger = load_ledger(edited)
    if ledger.base is None:
        raise typer.BadParameter("expected a ledger that names its base")
    base, tokenizer = load(ledger.base.source)
    assert tokenizer is not None  # `kis edit` asks for one
    prompts = tokenize_facts(
        read_facts(facts, num_facts), tokenizer, context_length=base.config.context_length
    )[len(ledger.facts) :]
    rows, after = fact_keys(base, prompts, token_budget=_BUDGET), load_model(edited)
    for layer, edit in ledger.edits.items():
        before = _values(base, prompts, layer)
        moved = _values(after, prompts, layer) - before
        foreseen = HOST.run(interference, edit, rows[layer])
        typer.echo(
            f"layer {layer}: {len(ledger.facts)} edits over {len(ledger.written(layer))} experts, "
            f"{len(prompts)} other facts: moved by {np.abs(moved).max():.3g} at most, foreseen "
            f"{np.abs(moved - foreseen).max():.2g} off; values reach {np.abs(before).max():.3g}"
        )


def _values(model: Model, prompts: list[Prompt], layer: int) -> np.ndarray:
    """What a layer's experts answer together at the token of each prompt, `(n, m)`."""
    length = max(prompt.index + 1 for prompt in prompts)
    places = np.array([prompt.index for prompt in prompts])
    tokens = np.zeros((len(prompts), length), np.int32)
    for row, prompt in zip(tokens, prompts, strict=True):
        row[: prompt.index + 1] = prompt.tokens[: prompt.index + 1]
    found = _values_at(model, tokens, np.arange(length) <= places[:, None], places)
    return np.asarray(found[layer], np.float64)


@jax.jit
def _values_at(model: Model, tokens: Array, mask: Array, places: Array) -> Array:
    every = jnp.arange(len(tokens))
    stream = model.embed(tokens, mask)
    return model.run(stream, mask, watch=lambda glimpse: glimpse.values[every, places])[1]


if __name__ == "__main__":
    typer.run(main)
