"""Does P foretell damage? `python scripts/damage_study.py MODEL --scan SCAN --work out/damage`.

Facts that the model knows are edited one at a time, at several layers; after each edit the answer
of every other known fact is scored again. What was known before the edit is held against that:
superposition, what follows from it, and what others proposed in its place. Whatever is in --work
is not done again: the same command goes on where it was stopped, and with more edits or layers
adds these. `scripts/damage_summary.py` says what it comes to.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import typer
from jax import Array

import kis_jax as kis
from kis_jax.checkpoints.files import write_atomically
from kis_jax.core.arrays.precision import HOST
from kis_jax.data.batches import Batch, fill_batches
from kis_jax.data.continuations import Continuation, tokenize_continuations
from kis_jax.data.facts import Fact, read_facts
from kis_jax.data.prompts import tokenize_facts
from kis_jax.models import Decoder
from kis_jax.models.memory import memory_kernel
from kis_jax.passes.scores.recall import recall
from kis_jax.passes.store import MomentStore, store_of
from kis_jax.passes.targets.settings import TargetSettings
from kis_jax.passes.targets.values import target_values

# Llama's published numbers; of the prompt alone, as in `kis plan`. Fixed, whatever the defaults.
TARGET = TargetSettings(steps=25, learning_rate=0.5, clamp=4, weight_decay=0.001)
_TOKENS = 700  # run at once
_SAVE_EVERY = 10  # edits


@dataclasses.dataclass(frozen=True)
class Texts:
    """Answers after their prompts.

    Attributes:
      told: the n of them; the last token of each is left out of the batches.
      subjects: place of each subject's last token, `(n,)`.
      batches: of all.
    """

    told: list[Continuation]
    subjects: np.ndarray
    batches: list[Batch]

    @classmethod
    def of(
        cls, facts: Sequence[Fact], answers: Sequence[str], model: Decoder, tokenizer: Any
    ) -> Texts:
        """Tokenizes the answers together with the prompts of the facts."""
        limit = model.config.context_length
        prompts = tokenize_facts(facts, tokenizer, context_length=limit)
        told = tokenize_continuations(
            [fact.text for fact in facts], answers, tokenizer, context_length=limit
        )
        texts = (one.tokens[:-1] for one in told)
        batches = list(fill_batches(texts, model.config, token_budget=_TOKENS))
        return cls(told, np.array([prompt.index for prompt in prompts]), batches)

    def predicting(self, batch: Batch) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Row, column, following token and share in the answer of each token that predicts one."""
        found = [
            (row, place - 1, one.tokens[place], 1 / (len(one.tokens) - one.start))
            for row, one in enumerate(self.told[text] for text in batch.rows)
            for place in range(one.start, len(one.tokens))
        ]
        rows, columns, tokens, shares = map(np.array, zip(*found, strict=True))
        return rows, columns, tokens, shares.astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Before:
    """What texts show of themselves at a layer before any edit; tokens of all texts in one axis.

    Attributes:
      keys: `(t, d)`.
      slopes: of each answer's mean log p, in the layer's values, `(t, m)`.
      norms: of the stream after the layer, `(t,)`.
      text: which text each token is of, `(t,)`.
      subjects: the tokens that are subjects' last ones, `(n,)`.
      held: of each batch, what the layers above are run from: keys, values, rest.
      log_p: of the answers, mean over their tokens, `(n,)`.
    """

    keys: np.ndarray
    slopes: np.ndarray
    norms: np.ndarray
    text: np.ndarray
    subjects: np.ndarray
    held: list[tuple[Array, Array, Array]]
    log_p: np.ndarray


def look(model: Decoder, texts: Texts, layer: int) -> Before:
    """One pass forth and back."""
    parts, held, log_p = [], [], np.zeros(len(texts.told))
    for batch in texts.batches:
        keys, values, rest = _until(model, batch.tokens, batch.mask, layer=layer)
        at = texts.predicting(batch)
        found, slopes = _slopes(model, values, rest, batch.mask, *at, layer=layer)
        log_p[list(batch.rows)] = _by_text(found, at, batch)
        norms = np.linalg.norm(np.asarray(rest) + np.asarray(values), axis=-1)
        counted = batch.mask & (np.arange(len(batch.mask)) < len(batch.rows))[:, None]
        text = np.repeat(batch.rows, batch.mask.sum(axis=1)[: len(batch.rows)])
        of = [np.asarray(part)[counted] for part in (keys, slopes, norms)]
        parts.append((*of, text, np.concatenate([np.arange(n) for n in batch.mask.sum(axis=1)])))
        held.append((keys, values, rest))
    keys, slopes, norms, text, place = (np.concatenate(each) for each in zip(*parts, strict=True))
    order = np.lexsort((place, text))
    keys, slopes, norms, text, place = (each[order] for each in (keys, slopes, norms, text, place))
    subjects = np.flatnonzero(place == texts.subjects[text])
    return Before(keys, slopes, norms, text, subjects, held, log_p)


def after(
    model: Decoder, texts: Texts, before: Before, layer: int, along: np.ndarray, moves: np.ndarray
) -> np.ndarray:
    """Log p of all answers after an edit, `(n,)`; `along` may hold one for each text, `(n, d)`."""
    log_p = np.zeros(len(texts.told))
    for batch, held in zip(texts.batches, before.held, strict=True):
        rows = np.resize(batch.rows, len(batch.tokens))
        u, x = (each[rows] if each.ndim == 2 else each[None] for each in (along, moves))
        at = texts.predicting(batch)
        u, x = np.asarray(u, np.float32), np.asarray(x, np.float32)
        found = _after(model, *held, batch.mask, u, x, *at[:3], layer=layer)
        log_p[list(batch.rows)] = _by_text(found, at, batch)
    return log_p


def _by_text(found: Array, at: tuple[np.ndarray, ...], batch: Batch) -> np.ndarray:
    return np.bincount(at[0], np.asarray(found) * at[3], minlength=len(batch.rows))


@functools.partial(jax.jit, static_argnames="layer")
def _until(model: Decoder, tokens: Array, mask: Array, *, layer: int) -> tuple[Array, ...]:
    """Keys and values of a layer's memory, and the stream that these are added to."""
    x, _ = model.run(model.embed(tokens, mask), mask, layers=range(layer))
    _, found = model.run(
        x,
        mask,
        layers=range(layer, layer + 1),
        watch=lambda glimpse: (glimpse.keys, glimpse.values, glimpse.rest),
    )
    return jax.tree.map(lambda stacked: stacked[0], found)


def _answers(
    model: Decoder, values: Array, rest: Array, mask: Array, at: Sequence[Array], layer: int
) -> Array:
    """Log p of the tokens that follow, from what a layer's memory says."""
    block = jax.tree.map(lambda stacked: stacked[layer], model.blocks)
    upper = range(layer + 1, model.config.num_layers)
    x, _ = model.run(block.write(rest, values), mask, layers=upper)
    rows, columns, tokens = at
    logits = jax.nn.log_softmax(model.finish(x[rows, columns][None])[0])
    return logits[jnp.arange(len(tokens)), tokens]


@functools.partial(jax.jit, static_argnames="layer")
def _slopes(
    model: Decoder,
    values: Array,
    rest: Array,
    mask: Array,
    rows: Array,
    columns: Array,
    tokens: Array,
    shares: Array,
    *,
    layer: int,
) -> tuple[Array, Array]:
    def total(values: Array) -> tuple[Array, Array]:
        found = _answers(model, values, rest, mask, (rows, columns, tokens), layer)
        return jnp.sum(found * shares), found

    slopes, found = jax.grad(total, has_aux=True)(values)
    return found, slopes


@functools.partial(jax.jit, static_argnames="layer")
def _after(
    model: Decoder,
    keys: Array,
    values: Array,
    rest: Array,
    mask: Array,
    along: Array,
    moves: Array,
    rows: Array,
    columns: Array,
    tokens: Array,
    *,
    layer: int,
) -> Array:
    shares = jnp.sum(keys * along[:, None], axis=-1)
    values = values + shares[..., None] * moves[:, None]
    return _answers(model, values, rest, mask, (rows, columns, tokens), layer)


def streams(model: Decoder, texts: Texts) -> np.ndarray:
    """The residual stream that each layer's memory is added to, `(layers, 2, n, m)`.

    At the subject's last token and at the prompt's.
    """
    ends = np.array([one.start - 1 for one in texts.told])
    found = np.zeros((model.config.num_layers, 2, len(ends), model.config.width), np.float32)
    for batch in texts.batches:
        rows = np.resize(batch.rows, len(batch.tokens))
        places = np.stack([texts.subjects[rows], ends[rows]])
        seen = np.asarray(_streams(model, batch.tokens, batch.mask, places))
        found[:, :, list(batch.rows)] = seen[:, :, : len(batch.rows)]
    return found


@jax.jit
def _streams(model: Decoder, tokens: Array, mask: Array, places: Array) -> Array:
    every = jnp.arange(len(tokens))
    return model.run(
        model.embed(tokens, mask), mask, watch=lambda glimpse: glimpse.rest[every, places]
    )[1]


def foretold(
    whitener: kis.Whitener,
    before: Before,
    asked: Before,
    edits: np.ndarray,
    along: np.ndarray,
    moves: np.ndarray,
) -> dict[str, np.ndarray]:
    """What is known of each edit's damage to each fact beforehand, `(edits, n)` each.

    Args:
      whitener: of the layer.
      before: of the facts that are watched, with their true answers.
      asked: of the facts that are edited, with the new ones.
      edits: their places among the facts that are watched.
      along: directions, `(edits, d)`.
      moves: residuals, `(edits, m)`.
    """
    shares, first = (
        along @ before.keys.T,
        np.searchsorted(before.text, np.arange(len(before.log_p))),
    )
    lengths = np.linalg.norm(moves, axis=1)[:, None]
    most = lambda of_tokens: np.maximum.reduceat(np.abs(of_tokens), first, axis=1)  # noqa: E731
    total = lambda of_tokens: np.add.reduceat(of_tokens, first, axis=-1)  # noqa: E731
    keys = before.keys[before.subjects].astype(np.float64)
    white = HOST.run(whitener.whiten, keys)
    common = white.mean(axis=0) / np.linalg.norm(white.mean(axis=0))
    rest = white - np.outer(white @ common, common)
    within = rest[edits] @ rest.T / np.sum(rest[edits] ** 2, axis=1)[:, None]
    p, norms = shares[:, before.subjects], before.norms
    own, theirs = asked.text, before.text
    each = np.zeros((len(edits), len(first)))
    for edit in range(len(edits)):
        mine = own == edit
        each[edit] = total(
            np.sum((asked.keys[mine] @ before.keys.T) * (asked.slopes[mine] @ before.slopes.T), 0)
        )
    sizes = [
        np.sqrt([_square(part, part.text == text) for text in range(len(part.log_p))])
        for part in (asked, before)
    ]
    del theirs
    return {
        "p": p,
        "p_without_common": within,
        "p_any_token": most(shares),
        "move": p * lengths,
        "move_in_streams": p * lengths / norms[before.subjects],
        "move_any_token": most(shares * lengths / norms),
        "first_order": total(shares * (moves @ before.slopes.T)),
        "key_cosine": _cosine(keys)[edits],
        "gradient_dot": each,
        "gradient_cosine": each / np.outer(*sizes),
    }


def _square(part: Before, mine: np.ndarray) -> float:
    """Of the gradient of one answer in the layer's kernel."""
    keys, slopes = part.keys[mine], part.slopes[mine]
    return float(np.sum((keys @ keys.T) * (slopes @ slopes.T)))


def _cosine(rows: np.ndarray) -> np.ndarray:
    unit = rows / np.linalg.norm(rows, axis=-1, keepdims=True)
    return unit @ unit.swapaxes(-1, -2)


def main(
    model: Annotated[str, typer.Argument(help="A decoder: a local directory or a hub name.")],
    scan: Annotated[Path, typer.Option(help="Folder of a scan of it, for its second moments.")],
    work: Annotated[Path, typer.Option(help="Folder for all that is found.")] = Path("out/damage"),
    facts: Annotated[str, typer.Option(help="A file of facts, or world.")] = "world",
    layers: Annotated[str, typer.Option(help="Layers, such as 4,11,20.")] = "4,11,20,27",
    num_edits: Annotated[int, typer.Option(help="Edits at each, drawn from what is known.")] = 100,
) -> None:
    """Edits one fact after another, and scores all others."""
    decoder, tokenizer = kis.load(model)
    assert isinstance(decoder, Decoder) and tokenizer is not None
    every = read_facts(facts)
    known = [f for f, told in zip(every, recall(decoder, tokenizer, every), strict=True) if told]
    places = np.random.default_rng(0).permutation(len(known))[:num_edits]
    chosen = [known[place] for place in places]
    print(f"{len(known)} of {len(every)} facts are known, {len(chosen)} of them edited")
    answers = Texts.of(known, [fact.target_true for fact in known], decoder, tokenizer)
    new = Texts.of(chosen, [fact.target_new for fact in chosen], decoder, tokenizer)
    work.mkdir(parents=True, exist_ok=True)
    relations = [fact.relation or "" for fact in known]
    stream = _cosine(streams(decoder, answers))[:, :, places]
    about = {"relation": relations, "answer": [fact.target_true for fact in known]}
    _save(work / "facts.npz", streams=stream.astype(np.float32), edits=places, **about)
    saved = MomentStore(store_of(scan), {}).restore()
    assert saved is not None and saved.complete, "the scan is not finished"
    for layer in map(int, layers.split(",")):
        path, began = work / f"layer_{layer:03d}.npz", time.perf_counter()
        found = target_values(
            decoder, tokenizer, chosen, layer=layer, settings=TARGET, prefixes=("",)
        )
        print(f"layer {layer}: target values in {time.perf_counter() - began:.0f} s", flush=True)
        mean = np.asarray(saved.moments.total[layer]) / int(saved.moments.count[layer])
        whitener = HOST.whitener(mean)
        solved = HOST.run(whitener.solve, found.keys)
        along = solved / np.sum(solved * found.keys, axis=1, keepdims=True)
        moves = found.values - found.keys @ np.asarray(memory_kernel(decoder, layer), np.float64)
        before, asked = (look(decoder, texts, layer) for texts in (answers, new))
        told = foretold(whitener, before, asked, places, along, moves)
        log_p = np.full((len(chosen), len(known)), np.nan)
        if path.exists():
            with np.load(path) as earlier:
                done = min(len(chosen), len(earlier["log_p"]))
                log_p[:done] = earlier["log_p"][:done]
        written = after(decoder, new, asked, layer, along, moves)
        for edit in np.flatnonzero(np.isnan(log_p[:, 0])):
            log_p[edit] = after(decoder, answers, before, layer, along[edit], moves[edit])
            if (edit + 1) % _SAVE_EVERY == 0 or edit + 1 == len(chosen):
                own = {"before": before.log_p, "new_before": asked.log_p, "new_after": written}
                _save(path, log_p=log_p, **own, **told)
                print(
                    f"layer {layer}: {edit + 1} edits, {time.perf_counter() - began:.0f} s",
                    flush=True,
                )


def _save(path: Path, **arrays: Any) -> None:
    with write_atomically(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)


if __name__ == "__main__":
    typer.run(main)
