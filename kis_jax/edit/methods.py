"""Editing: from facts to an edited model, by any of the methods."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

from transformers import PreTrainedTokenizerFast

from kis_jax.checkpoints.ledger import EditedFact, Ledger
from kis_jax.core.arrays.precision import Inverse
from kis_jax.core.editing.recipes import numbers_of, recipe
from kis_jax.core.geometry.second_moment import SecondMoment
from kis_jax.data.conflicts import conflicts
from kis_jax.data.facts import Fact
from kis_jax.edit.finetune import FinetuneSettings
from kis_jax.edit.gradients import write_gradients
from kis_jax.edit.job import Job, Search, Written, scaled, target_settings
from kis_jax.edit.many_layers import write_layers
from kis_jax.edit.one_layer import write_in_turn, write_layer
from kis_jax.edit.tuned import write_tuned
from kis_jax.models import Decoder, Model, ModelConfig
from kis_jax.models.memory import check_layers, edited
from kis_jax.passes.targets.context_prefixes import default_prefixes
from kis_jax.passes.targets.settings import (
    EditSettings,
    TargetSettings,
    check_together,
    edit_settings,
)
from kis_jax.passes.targets.values import TargetValues


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of one fact.

    Attributes:
      fact: as it was given.
      reason: why it was left out; None if it was edited.
      search: how its target value was found.
    """

    fact: Fact
    reason: str | None
    search: Search


@dataclasses.dataclass(frozen=True)
class Edited:
    """An edited model, and how it came to be.

    Attributes:
      model: edited; the one given is as it was.
      ledger: of the edits.
      outcomes: what became of each fact, in the order given.
      damage: that the edit is expected to do to ordinary text, summed over the layers; see
        `kis_jax.core.editing.interference.text_damage`.
      scale: of all that was asked for, where a bound on the damage left no more of it; else 1.
    """

    model: Model = dataclasses.field(repr=False)
    ledger: Ledger
    outcomes: tuple[Outcome, ...] = dataclasses.field(repr=False)
    damage: float
    scale: float


def make_edits(
    model: Model,
    tokenizer: PreTrainedTokenizerFast,
    facts: Sequence[Fact],
    second_moments: SecondMoment,
    *,
    method: str = "constrained",
    layers: Sequence[int] | None = None,
    settings: EditSettings | None = None,
    targets: TargetValues | None = None,
    prefixes: Sequence[str] | None = None,
    original_keys: bool = False,
    ridge: float = 0.0,
    inverse: Inverse = "auto",
    token_budget: int | None = None,
    at_most_damage: float | None = None,
    on_fact: Callable[[int], None] = lambda done: None,
) -> Edited:
    """Edits facts into a model: target values, then the closed form of the method.

    A fact is left out, and the others go on, if the search for its target value comes to numbers
    that are not finite, or ("constrained") if its key repeats earlier ones; `Edited.outcomes` says
    so. Closed forms are computed in float64 on the host.

    "batch" on one layer asks for each target value at the fact's key, averaged over the prefixes,
    as the other methods do. On several layers it asks, as MEMIT's authors do, that the stream
    after the last of them reach z at the bare prompt: each layer, still solved for at averaged
    keys, takes its share of z - h, and h is that of the prompt without a prefix. With one prefix,
    the empty one, the two agree. "null-space" writes one layer, where AlphaEdit's authors write
    several.

    Args:
      model: a decoder; it stays as it is.
      tokenizer: of the model.
      facts: to be edited, in this order; each with a `target_new`.
      second_moments: of the model's keys over ordinary text, stacked over its layers.
      method: "sequential": the paper's rule, one edit after another, with target values found on
        the model as it was; "rome": the same, each target value found on the model that the edits
        before have left; "constrained", or "emmet": all at once, every value exact; "batch", or
        "memit": all in least squares against ordinary text; "null-space", or "alphaedit";
        "finetune": gradient steps on the one kernel; or any other of
        `kis_jax.core.editing.recipes`, with its filters, such as "alphaedit+anchor+protect".
      layers: whose memory is written: one, for "batch" any number. None: those of `settings`.
      settings: None: those of the model's family; see `edit_settings`.
      targets: target values found before, a row for each fact, for the last of the layers. None:
        they are found.
      prefixes: put before the prompts when values and keys are taken. None: those that ROME, or
        for "batch" and "null-space" MEMIT, draws.
      original_keys: of "rome", as its authors' program has it: directions from the keys averaged
        over prefixes, but residuals and denominators from the prompt alone. The default takes
        the average in all three places (r-ROME), which does not collapse the model.
      ridge: added to the diagonal of the second moment.
      inverse: how C is inverted; see `Precision.whitener`.
      token_budget: the most tokens run at once. None: chosen from memory.
      at_most_damage: the most that `Edited.damage` may be: if the edit would do more, a part of
        all that is asked for is written. None: no bound.
      on_fact: called with the number of facts that are through.

    Returns:
      An `Edited`.

    Raises:
      ValueError: if the model has no such layer, facts contradict each other, the method does not
        go with an argument, a second moment has no inverse, or no fact could be edited.

    Examples:
      >>> import kis_jax as kis
      >>> from kis_jax import factlm
      >>> from kis_jax.data.facts import read_facts
      >>> model, tokenizer = kis.load("factlm")
      >>> moments = kis.second_moments(
      ...     model, tokenizer, factlm.corpus_path().read_text().splitlines()[:200])
      >>> made = make_edits(model, tokenizer, read_facts("factlm", 2), moments, prefixes=[""])
      >>> [fact.target for fact in made.ledger.facts], made.ledger.method
      (['Hexby', 'sailor'], 'constrained')
      >>> first = kis.edited(model, made.ledger.take([0]).edits)  # the second taken back

    Reference: Meng et al. 2022 (arXiv 2202.05262); Meng et al. 2023 (arXiv 2210.07229); Gupta et
    al. 2024 (arXiv 2403.07175, 2403.14236); Fang et al. 2025 (arXiv 2410.02355); Hu et al. 2024
    (arXiv 2408.07413), eqs. 9 to 12.
    """
    if not isinstance(model, Decoder):
        raise ValueError(f"model: expected a decoder, found {model.config.family}, an encoder")
    made_of = recipe(method)
    method = made_of.name
    spread = method == "batch" or made_of.base.gradients
    check_method(method, model.config)
    check_facts(facts)
    if at_most_damage is not None and not 0 < at_most_damage < math.inf:
        raise ValueError(f"at_most_damage: expected a positive number, found {at_most_damage}")
    settings = edit_settings(model.config) if settings is None else settings
    if layers is None:
        layers = settings.layers if method == "batch" else [settings.layer]
    layers = sorted(set(layers))
    check_together(layers, model.config)
    check_layers(layers, model.config)
    if not layers or (len(layers) > 1 and not spread):
        raise ValueError(f"layers: expected one for {method}, found {layers}; pass one of them")
    if original_keys and made_of.kind != "rome":
        raise ValueError(f"original_keys: expected method rome, found {method}; leave it out")
    if targets is not None and (made_of.base.rule is None or len(targets.keys) != len(facts)):
        raise ValueError(
            f"targets: expected one for each of {len(facts)} facts, and a method with target "
            f"values, found {len(targets.keys)} for {method}"
        )
    if targets is not None and targets.layer != layers[-1]:
        raise ValueError(
            f"targets: expected target values of layer {layers[-1]}, the last that is edited, "
            f"found those of layer {targets.layer}; pass that layer, or find them anew"
        )
    if targets is not None:
        prefixes = targets.prefixes
    elif made_of.base.rule is None:
        prefixes = [""]
    elif prefixes is None:
        prefixes = default_prefixes(model, tokenizer, target_settings(settings, method))
    job = Job(
        model=model,
        tokenizer=tokenizer,
        facts=tuple(facts),
        second_moments=second_moments,
        method=method,
        layers=tuple(layers),
        settings=settings,
        prefixes=tuple(prefixes),
        original_keys=original_keys,
        ridge=ridge,
        inverse=inverse,
        token_budget=token_budget,
    )
    job.prepare()
    searched = target_settings(settings, method) if targets is None else targets.settings
    found = _write(job, targets, on_fact)
    damage, scale = job.damage(found.layers), 1.0
    if at_most_damage is not None and damage > at_most_damage:
        scale = math.sqrt(at_most_damage / damage)  # damage goes with the square of what is written
        found = dataclasses.replace(found, layers=scaled(found, job.method, scale))
        damage = at_most_damage
    return _finished(job, searched, found, damage, scale)


def check_method(method: str, config: ModelConfig) -> None:
    """Raises ValueError if a method does not go with the layers of a model."""
    base = recipe(method).base
    if base.rule is None:
        config.check_one_mlp(f"method {method}, whose steps would move the experts of all tokens")
    if base.where == "within":
        config.check_one_mlp(f"method {method}, which inverts C within one null space")


def check_facts(facts: Sequence[Fact]) -> None:
    """Raises ValueError if there are none, one lacks its new object, or two contradict."""
    if not facts:
        raise ValueError("facts: expected one at least, found none")
    for fact in facts:
        if not fact.target_new.strip():
            raise ValueError(
                f"fact {fact.case_id}: expected a `target_new`, the object to be written, found "
                f"none for {fact.text!r}; add it, or leave the fact out"
            )
    told = [conflict for conflict in conflicts(facts) if conflict.contradiction]
    if told:
        first, second = facts[told[0].first], facts[told[0].second]
        others = f", and {len(told) - 1} more contradictions" if told[1:] else ""
        raise ValueError(
            f"facts: expected one object for each question, found that fact {second.case_id} "
            f"({second.text!r}: {second.target_new!r}) contradicts fact {first.case_id} "
            f"({first.text!r}: {first.target_new!r}){others}; keep one of the two"
        )


def _write(job: Job, targets: TargetValues | None, on_fact: Callable[[int], None]) -> Written:
    if job.method == "finetune":
        return write_tuned(job)
    if job.recipe.base.gradients:
        return write_gradients(job, on_fact)
    if job.recipe.kind == "rome" and targets is None:
        return write_in_turn(job, on_fact)
    if targets is None:
        targets = job.target_values(job.model, job.facts)
    on_fact(len(job.facts))
    return write_layers(job, targets) if len(job.layers) > 1 else write_layer(job, targets)


def _finished(
    job: Job, searched: TargetSettings, found: Written, damage: float, scale: float
) -> Edited:
    lines = zip(job.facts, found.reasons, found.searches, strict=True)
    outcomes = tuple(Outcome(fact, reason, search) for fact, reason, search in lines)
    facts = tuple(
        EditedFact(fact.case_id, fact.subject, fact.prompt, fact.target_new)
        for fact, reason in zip(job.facts, found.reasons, strict=True)
        if reason is None
    )
    settings = _settings(job, searched)
    if scale != 1:
        settings["scale"] = scale
    experts = job.model.config.experts_per_layer
    ledger = Ledger(
        job.method, facts, found.layers, found.weight, job.prefixes, settings, experts=experts
    )
    return Edited(edited(job.model, ledger.edits), ledger, outcomes, damage, scale)


def _settings(job: Job, searched: TargetSettings) -> dict[str, Any]:
    """What the numbers depend on beside model, facts and prefixes, as plain JSON values."""
    if job.method == "finetune":
        return dataclasses.asdict(FinetuneSettings())
    if job.recipe.base.gradients:
        return {name: getattr(job.settings, name) for name in numbers_of(job.method)}
    told: dict[str, Any] = {
        "target": dataclasses.asdict(searched),
        "ridge": job.ridge,
        "inverse": job.inverse,
    }
    if job.dropped:
        told["dropped_directions"] = {str(layer): n for layer, n in job.dropped.items()}
    if job.recipe.kind == "rome":
        told["original_keys"] = job.original_keys
    return told | {name: getattr(job.settings, name) for name in numbers_of(job.method)}
