"""What `kis settings` and `kis tune` show."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from kis_jax.cli.console import print_table

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from kis_jax.models import ModelConfig
    from kis_jax.passes.targets.settings import EditSettings
    from kis_jax.tune.bench import Trial

_MEANINGS = {
    "layer": "that is written",
    "layers": "that are written",
    "weight": {
        "model": "of ordinary text, times the mean k C^-1 k of the facts",
        "absolute": "of ordinary text, in tokens, as published",
    },
    "null_space": {
        "model": "of text's energy, at most, in the free directions",
        "absolute": "the largest eigenvalue of C that counts as free",
    },
    "null_ridge": {"model": "times the mean k N k of the facts", "absolute": "as published"},
    "anchor": "the length of target values by +anchor; 0: the mean of the facts'",
    "protected": "of the kernel's energy, in whose directions +protect writes nothing",
    "budget": "times the first block's damage, above which lyaplock's weight rises",
    "gradient_step": "lengths of what the MLP writes, of ultraedit's typical shift",
    "gradient_ridge": "of the mean |k|^2, ultraedit's ridge",
    "units": "of the weight, the null space and its ridge",
    "target.steps": "looks at the loss, at most",
    "target.learning_rate": {
        "own": "lengths of v_0 in the first step",
        "rome": "of Adam",
        "memit": "of Adam",
    },
    "target.clamp": {
        "own": "lengths of v_0, at most",
        "rome": "lengths of v_0, at most",
        "memit": "lengths of the stream after the layer, at most",
    },
    "target.weight_decay": {
        "own": "times |shift|^2 / |v_0|^2",
        "rome": "times |shift| / |v_0|^2",
        "memit": "times |shift| / |h|^2, of the stream after the layer",
    },
    "target.kl_weight": 'of how far "{subject} is a" moves',
    "target.stop_below": "the loss at which a fact is done",
    "target.stop_at": "the probability at which a fact is done, bare and after other text",
    "target.convention": "whose search: our own, or that of the authors' program",
    "target.position": "the token whose key stands for a fact",
    "target.prefixed": "whether facts are also taught after other text",
}
_OF_METHOD = {"batch": ("weight", "units"), "null-space": ("null_space", "null_ridge", "units")}
_FINETUNED = ("layer",)


def print_settings(
    settings: EditSettings, method: str | None, config: ModelConfig, *, as_json: bool
) -> None:
    """The settings of a method, or all, each with what it means; then where they come from."""
    told = told_settings(settings, method)
    if as_json:
        print(json.dumps({"origin": settings.origin, "settings": told}, indent=1))
        return
    table = Table(title=f"{method or 'all methods'}, {config.family}, {config.num_layers} layers")
    for name in ("setting", "value", "meaning"):
        table.add_column(name)
    conventions = {"target": settings.target.convention}
    for name, value in told.items():
        meaning: Any = _MEANINGS[name.removeprefix("batch_")]
        if isinstance(meaning, dict):
            whose = told.get(f"{name.partition('.')[0]}.convention", conventions["target"])
            meaning = meaning[settings.units] if settings.units in meaning else meaning[whose]
        shown = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        table.add_row(name, escape(shown), escape(meaning))
    print_table(table)
    print(f"why: {settings.origin}")


def told_settings(settings: EditSettings, method: str | None) -> dict[str, Any]:
    """Of a method what it goes by, or of all; by name.

    Those of the search are the ones of its kind: MEMIT's and AlphaEdit's, where they differ.
    """
    import dataclasses

    from kis_jax.passes.targets.chosen import flat

    together = method in _OF_METHOD
    chosen = dataclasses.replace(
        settings, target=settings.batch_target if together else settings.target
    )
    told = flat(chosen)
    if method is None:
        if settings.batch_target != settings.target:
            batch = flat(dataclasses.replace(settings, target=settings.batch_target))
            told |= {f"batch_{n}": v for n, v in batch.items() if n.startswith("target.")}
        return told
    if method == "finetune":
        return {name: told[name] for name in _FINETUNED}
    layers = ("layers",) if method == "batch" else ("layer",)
    names = (*layers, *_OF_METHOD.get(method, ()), *(n for n in told if n.startswith("target.")))
    return {name: told[name] for name in names}


def print_first_pilot(budget: float) -> None:
    """That a pilot begins, before a first edit, and how to do without."""
    print(
        f"no settings are known for this model: a pilot of about {budget / 60:.0f} minutes finds "
        "them, once (--settings rule: without one)"
    )


def print_no_pilot(reason: str) -> None:
    """Why settings go by rule after all."""
    print(f"settings by rule, as the model finds none of its own: {reason}")


def print_trial(trial: Trial) -> None:
    """One line for a trial, as soon as it is done."""
    told = trial.record()
    what = ", ".join(f"{n.removeprefix('target.')} {v}" for n, v in trial.settings.items())
    numbers = ", ".join(
        f"{name} {_share(told[name])}" for name in ("efficacy", "paraphrase", "neighborhood")
    )
    edits = "each alone" if trial.num_edits == 1 else "together"
    print(
        f"{what}: {numbers} ({told['num_facts']} facts {edits}, {trial.seconds:.0f} s)", flush=True
    )


def print_tuned(record: Mapping[str, Any], kept: Path) -> None:
    """What was found, and where it is kept."""
    settings = record["settings"]
    table = Table(title=f"Settings for {record['source']}")
    for name in ("setting", "value"):
        table.add_column(name)
    for name in ("layer", "target.stop_at", "weight", "null_space", "null_ridge"):
        table.add_row(name, str(settings[name]))
    print_table(table)
    print(f"why: {record['origin']}")
    print(f"in {record['seconds']:.0f} s; used by kis edit, plan and lifelong: {kept}")


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
