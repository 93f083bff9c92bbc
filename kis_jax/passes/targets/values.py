"""Target values: what a layer's memory should answer so that the model says a fact's new object."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from transformers import PreTrainedTokenizerFast

from kis_jax.data.facts import Fact
from kis_jax.data.rewrites import Placed, Rewrite, tokenize_rewrites
from kis_jax.models import Decoder, Model
from kis_jax.models.memory import check_layers, memory_kernel
from kis_jax.passes.targets.context_prefixes import default_prefixes
from kis_jax.passes.targets.descent import descend, prepare
from kis_jax.passes.targets.rows import RowBatch, row_batches, step_budget
from kis_jax.passes.targets.settings import TargetSettings as TargetSettings
from kis_jax.passes.targets.settings import edit_settings


@dataclasses.dataclass(frozen=True)
class TargetValues:
    """What to write, and under which keys; NumPy float32, NaN for a fact that failed.

    Attributes:
      keys: `(n, d)`, averaged over the prefixes: what r-ROME and MEMIT use everywhere.
      prompt_keys: `(n, d)`, of the prompt with no prefix: ROME has these in its residual and its
        denominator.
      values: `(n, m)`, what `keys @ kernel` should be, the bias left out.
      initial: `(n, m)`, from which the values were sought: `keys @ kernel`, or by the authors'
        conventions `prompt_keys @ kernel`.
      losses: `(n,)`, at the end.
      probabilities: `(n,)`, of the target at the end: the geometric mean of its tokens', averaged
        over the prefixes.
      steps: `(n,)` int, updates made.
      failures: for each fact None, or why it has no values.
      left_out: for each fact, which prefixes were left out as the text would not fit the context.
      layer: whose memory they are of.
      prefixes: before the prompts; the first is "".
      settings: how the values were sought.
      noted: `(levels, n, m)`, the shift when the target first was likelier than each of the levels
        asked for, or where the search ended.
    """

    keys: np.ndarray
    prompt_keys: np.ndarray
    values: np.ndarray
    initial: np.ndarray
    losses: np.ndarray
    probabilities: np.ndarray
    steps: np.ndarray
    failures: tuple[str | None, ...]
    left_out: tuple[tuple[int, ...], ...]
    layer: int
    prefixes: tuple[str, ...]
    settings: TargetSettings
    noted: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros((0, 0, 0)))

    def __len__(self) -> int:
        """The number of facts."""
        return len(self.keys)

    def __getitem__(self, chosen: slice | Sequence[int] | np.ndarray) -> TargetValues:
        """Those of some facts: a slice, a mask, or an array of places."""
        places = np.arange(len(self))[chosen]
        if places.ndim != 1:
            raise TypeError(f"expected a slice, a mask or places, found {chosen!r}")
        arrays = {name: getattr(self, name)[places] for name in _ARRAYS}
        lists = {name: tuple(getattr(self, name)[i] for i in places) for name in _TUPLES}
        noted = self.noted[:, places] if len(self.noted) else self.noted
        return dataclasses.replace(self, **arrays, **lists, noted=noted)


def joined(first: TargetValues, second: TargetValues) -> TargetValues:
    """Of two sets of facts, sought alike at one layer."""
    arrays = {n: np.concatenate([getattr(first, n), getattr(second, n)]) for n in _ARRAYS}
    lists = {n: (*getattr(first, n), *getattr(second, n)) for n in _TUPLES}
    noted = np.concatenate([first.noted, second.noted], axis=1)
    return dataclasses.replace(first, **arrays, **lists, noted=noted)


_ARRAYS = ("keys", "prompt_keys", "values", "initial", "losses", "probabilities", "steps")
_TUPLES = ("failures", "left_out")


def target_values(
    model: Model,
    tokenizer: PreTrainedTokenizerFast,
    facts: Sequence[Fact],
    *,
    layer: int,
    settings: TargetSettings | None = None,
    prefixes: Sequence[str] | None = None,
    token_budget: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    levels: Sequence[float] = (),
) -> TargetValues:
    r"""Seeks the values with which a layer's memory makes the model say each fact's new object.

    For each fact apart, Adam looks for the shift $\delta$ of the MLP's output at the subject's
    last token that makes the target likely after the prompt, whatever stands before it:

    $$-\frac1p \sum_j \overline{\log p}(\text{target} \mid x_j, \delta) + w_{KL} D(p_\delta \| p_0)
    + w \, |\delta|^2 / |v_0|^2, \qquad |\delta| \le c \, |v_0|$$

    over texts $x_j$, the prompt after each prefix; $D$ at the token after "{subject} is a". It goes
    no further than until the target is likely enough, after the bare prompt and after the others
    (`stop_at`). The value is $v_0 + \delta$. Where the conventions of the authors' programs
    differ, `TargetSettings` says so. Facts are optimised many at once, each as if it were alone.

    Args:
      model: a decoder.
      tokenizer: of the model.
      facts: with a `target_new` each.
      layer: the edited one.
      settings: by default those of `edit_settings(model.config).target`.
      prefixes: texts to stand before the prompts, "" first; by default
        `default_prefixes(model, tokenizer, settings)`.
      token_budget: the most tokens run at once in a step; if None as many as pay, and fit the
        memory.
      on_progress: called with how many facts are done, and how many there are.
      levels: of probability, at which shifts are noted on the way; see `TargetValues.noted`.

    Returns:
      See `TargetValues`. A fact whose loss ceased to be finite is named in `failures`; the others
      are what they are without it.

    Raises:
      ValueError: if the model is an encoder or has no such layer, or a fact has no target, a
        subject that the tokenizer does not know, or a prompt longer than the context.

    Examples:
      >>> from kis_jax import load
      >>> from kis_jax.data.facts import read_facts
      >>> model, tokenizer = load("factlm")
      >>> found = target_values(
      ...     model, tokenizer, read_facts("factlm", 2), layer=2, prefixes=[""])
      >>> found.values.shape, found.failures
      ((2, 128), (None, None))

    References: Meng et al. 2022 (arXiv 2202.05262), eq. 4; 2023 (arXiv 2210.07229), eq. 16.
    """
    decoder = _decoder(model)
    config = decoder.config
    check_layers([layer], config)
    settings = edit_settings(config).target if settings is None else settings
    if prefixes is None:
        prefixes = default_prefixes(decoder, tokenizer, settings)
    rewrites = tokenize_rewrites(
        facts,
        prefixes,
        tokenizer,
        context_length=config.context_length,
        position=settings.position,
    )
    if settings.convention != "own":  # the authors' programs watch the word after the subject
        rewrites = [_to_subject(rewrite) for rewrite in rewrites]
    n, d, m = len(facts), config.memory_width, config.width
    keys, prompt_keys, shifts = (np.full((n, k), np.nan, np.float32) for k in (d, d, m))
    reached, probabilities = np.full((2, n), np.nan, np.float32)
    steps, noted = np.zeros(n, int), np.full((len(levels), n, m), np.nan, np.float32)
    budget = step_budget(config) if token_budget is None else token_budget
    done = 0
    batches = row_batches(rewrites, config, layer=layer, budget=budget, steps=settings.steps)
    for batch in batches if n else ():
        ready = prepare(decoder, batch.rows, jnp.asarray(layer), extent=batch.extent)
        active = jnp.arange(len(batch.rows.tokens)) < len(batch.facts)
        descent = descend(
            decoder, batch.rows, ready, active, layer=layer, settings=settings, levels=levels
        )
        here, taken = list(batch.facts), slice(len(batch.facts))
        shifts[here] = np.asarray(descent.shift)[taken]
        reached[here] = np.asarray(descent.losses)[taken]
        probabilities[here] = np.asarray(descent.probabilities)[taken]
        steps[here] = np.asarray(descent.steps)[taken]
        noted[:, here] = np.asarray(descent.marks)[:, taken]
        texts_keys = np.asarray(ready.keys)[taken, :-1]
        prompt_keys[here] = texts_keys[:, 0]
        keys[here] = np.matmul(key_weights(batch, settings)[taken, None], texts_keys)[:, 0]
        done += len(here)
        if on_progress is not None:
            on_progress(done, n)
    moved = keys if settings.convention == "own" else prompt_keys
    initial = np.array(_answers(moved, memory_kernel(decoder, layer)))
    values = initial + shifts
    finite = np.asarray(np.isfinite(values).all(axis=1))
    failures = tuple(map(_failure, reached, steps, finite))
    failed = np.array([failure is not None for failure in failures], bool)
    for array in (keys, prompt_keys, values, initial, probabilities):
        array[failed] = np.nan
    return TargetValues(
        keys=keys,
        prompt_keys=prompt_keys,
        values=values,
        initial=initial,
        losses=reached,
        probabilities=probabilities,
        steps=steps,
        failures=failures,
        left_out=tuple(map(_left_out, rewrites)),
        layer=layer,
        prefixes=tuple(prefixes),
        settings=settings,
        noted=noted,
    )


def key_weights(batch: RowBatch, settings: TargetSettings) -> np.ndarray:
    """Weight of each text's key in the average, `(f, p)`; see `TargetSettings.convention`."""
    weights = (batch.rows.weights > 0).astype(np.float32)
    generated = weights[:, 1:].sum(axis=1, keepdims=True)
    if settings.convention != "rome":
        weights[:, 1:] /= np.maximum(generated, 1)
    return weights / weights.sum(axis=1, keepdims=True)


@jax.jit
def _answers(keys: jax.Array, kernel: jax.Array) -> jax.Array:
    return jnp.matmul(keys, kernel.astype(jnp.float32), precision="highest")


def _decoder(model: Model) -> Decoder:
    if not isinstance(model, Decoder):
        raise ValueError(
            f"model: expected a decoder, which says what follows a prompt, found an encoder "
            f"({model.config.family}); choose a causal language model"
        )
    return model


def _failure(loss: float, steps: int, finite: bool) -> str | None:
    if np.isfinite(loss) and finite:
        return None
    return (
        f"the loss was {loss} after {steps} steps; lower the learning rate, or check the model's "
        "parameters"
    )


def _to_subject(rewrite: Rewrite) -> Rewrite:
    """With an essence that ends where the shift is added."""
    essence, stop = rewrite.essence, rewrite.essence.index + 1
    return dataclasses.replace(rewrite, essence=Placed(essence.tokens[:stop], stop - 1, stop))


def _left_out(rewrite: Rewrite) -> tuple[int, ...]:
    return tuple(i for i, text in enumerate(rewrite.texts) if text is None)
