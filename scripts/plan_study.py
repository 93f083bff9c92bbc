"""Whether `kis plan` tells the truth on factlm: `python scripts/plan_study.py --out study.json`.

Facts are halved by subject. On the first half the forecast's measures were chosen; the figures of
docs/planning.md are of the second. Edits are made by `make_edits` and judged by `evaluate`.
Forecasts see other neighborhood prompts than those that damage is measured on, and rehearsals half
of the facts that are edited.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import typer

from kis_jax import factlm, load
from kis_jax.core.geometry.second_moment import SecondMoment
from kis_jax.data.batches import fill_batches, token_budget
from kis_jax.data.corpora import open_corpus, tokenize_corpus
from kis_jax.data.facts import Fact, read_facts
from kis_jax.data.neighbors import without_edited_neighbors
from kis_jax.edit.methods import make_edits
from kis_jax.models import Decoder
from kis_jax.models.memory import edited as with_edits
from kis_jax.models.memory import memory_kernel
from kis_jax.passes.scores.measures import evaluate
from kis_jax.passes.second_moments import SecondMomentPass
from kis_jax.passes.targets.settings import edit_settings
from kis_jax.passes.targets.values import TargetValues, target_values
from kis_jax.plan.forecasts import LayerForecast, forecast_layer
from kis_jax.plan.probes import probe_layers
from kis_jax.plan.rehearsal import Rehearsals

# Facts whose neighborhood prompts tell of damage, and prompts of other facts that forecasts see;
# none of them about an edited subject.
_JUDGES = 100
_PROBES = 256


@dataclasses.dataclass(frozen=True)
class Run:
    """Some facts to be edited: `order` are their places in the half; `set` tells sets apart."""

    part: str
    layer: int
    method: str
    order: np.ndarray
    set: int = 0


class Study:
    """A half of factlm's facts with all that forecasts and measurements of them need."""

    def __init__(self, half: str, num_facts: int, start: int) -> None:
        """Finds second moments, probes and target values at all layers."""
        model, tokenizer = load("factlm")
        assert isinstance(model, Decoder) and tokenizer is not None
        self.model, self.tokenizer, config = model, tokenizer, model.config
        self.settings = edit_settings(config)
        facts = read_facts("factlm")
        subjects = sorted({fact.subject for fact in facts})
        np.random.default_rng(123).shuffle(subjects)
        first = set(subjects[: len(subjects) // 2])
        mine = [fact for fact in facts if (fact.subject in first) == (half == "design")]
        places = np.random.default_rng(3).permutation(len(mine))[start : start + num_facts]
        self.facts = [mine[place] for place in sorted(places)]
        self.judges, prompts = _judges(self.facts)
        self.moments = _second_moments(model, self.tokenizer)
        budget = token_budget(config)
        self.stage = Rehearsals(model, tokenizer, self.facts, prompts, token_budget=budget)
        texts = [self.tokenizer(text)["input_ids"] for text in prompts]
        asked = [(i, text) for i, fact in enumerate(self.facts) for text in fact.paraphrase_prompts]
        split = len(texts)
        texts += [self.tokenizer(text)["input_ids"] for _, text in asked]
        probes = probe_layers(model, texts, token_budget=budget)
        self.targets: list[TargetValues] = []
        self.forecasts: list[LayerForecast] = []
        for layer, probe in enumerate(probes):
            began = time.perf_counter()
            found = target_values(model, self.tokenizer, self.facts, layer=layer, prefixes=("",))
            kernel = np.asarray(memory_kernel(model, layer), np.float64)
            mean = self.moments.total[layer] / self.moments.count[layer]
            self.targets.append(found)
            self.forecasts.append(
                forecast_layer(
                    found,
                    kernel,
                    np.asarray(mean),
                    probe.part(0, split),
                    self.settings,
                    paraphrases=probe.part(split, len(texts)),
                    paraphrased=[i for i, _ in asked],
                )
            )
            seconds = time.perf_counter() - began
            print(f"layer {layer}: {len(self.facts)} target values in {seconds:.0f} s", flush=True)
        self.neighborhood = self._neighborhood(model)

    def measure(self, run: Run) -> dict[str, Any]:
        """Forecast first, then the edit, then what it did."""
        forecast = self.forecasts[run.layer]
        outlook = forecast.outlook(run.method, run.order)
        edit, _ = forecast.edit(run.method, run.order)
        assert edit is not None
        began = time.perf_counter()
        rehearsed = self.stage.of(with_edits(self.model, {run.layer: edit}), run.order[::2])
        seconds = time.perf_counter() - began
        facts = [self.facts[place] for place in run.order]
        edited = make_edits(
            self.model,
            self.tokenizer,
            facts,
            self.moments,
            method=run.method,
            layers=[run.layer],
            targets=self.targets[run.layer][run.order],
        )
        bare = [dataclasses.replace(fact, neighborhood_prompts=()) for fact in facts]
        found = evaluate(edited.model, self.tokenizer, bare)
        efficacy, paraphrase = np.mean(found.efficacy), np.nanmean(found.paraphrase)
        neighborhood = self._neighborhood(edited.model)
        parts = np.array([efficacy, paraphrase, neighborhood[0]])
        return {
            "part": run.part,
            "set": run.set,
            "layer": run.layer,
            "method": run.method,
            "num_edits": len(run.order),
            "displacement": outlook.displacement,
            "effect": outlook.effect,
            "carried": outlook.carried,
            "forecast_score": outlook.score,
            "rehearsed_loss": 1 - rehearsed.stays,
            "rehearsed_effect": rehearsed.effect,
            "rehearsed_carried": rehearsed.carried,
            "rehearsed_score": rehearsed.score,
            "rehearsal_seconds": seconds,
            "efficacy": float(efficacy),
            "paraphrase": float(paraphrase),
            "neighborhood": neighborhood[0],
            "drop": self.neighborhood[0] - neighborhood[0],
            "drop_magnitude": self.neighborhood[1] - neighborhood[1],
            "score": float(3 / np.sum(1 / parts)) if parts.all() else 0.0,
        }

    def _neighborhood(self, model: Any) -> tuple[float, float]:
        found = evaluate(model, self.tokenizer, self.judges)
        return float(np.mean(found.neighborhood)), float(np.mean(found.neighborhood_magnitude))


def _judges(facts: Sequence[Fact]) -> tuple[list[Fact], list[str]]:
    """Facts to judge by, and prompts to forecast with: neighborhood prompts, no prompt in both.

    Neither names a subject of the facts that may be edited.
    """
    subjects = {fact.subject for fact in facts}
    shuffled = np.random.default_rng(1).permutation(
        sorted({text for fact in facts for text in fact.neighborhood_prompts})
    )
    free = [text for text in shuffled if not any(subject in text for subject in subjects)]
    seen = set(free[: min(_PROBES, len(free) // 2)])
    kept = []
    for fact in without_edited_neighbors(facts):
        prompts = tuple(
            text for text in fact.neighborhood_prompts if text in free and text not in seen
        )
        if prompts:
            bare = dataclasses.replace(fact, neighborhood_prompts=prompts, paraphrase_prompts=())
            kept.append(bare)
    places = np.random.default_rng(1).permutation(len(kept))[:_JUDGES]
    return [kept[place] for place in sorted(places)], sorted(seen)


def _second_moments(model: Decoder, tokenizer: Any) -> SecondMoment:
    running = SecondMomentPass(model)
    corpus = open_corpus(str(factlm.corpus_path()))
    texts = tokenize_corpus(
        corpus.documents(), tokenizer, context_length=model.config.context_length
    )
    for batch in fill_batches(texts, model.config, token_budget=token_budget(model.config)):
        running.add(batch)
    return running.result()


def runs(study: Study, sizes: Sequence[int], draws: int) -> Iterator[Run]:
    """All edits of the study."""
    rng = np.random.default_rng(2)
    num_layers, n = study.model.config.num_layers, len(study.facts)
    methods: tuple[str, ...] = ("sequential", "constrained", "batch")
    for size in sizes:
        for draw in range(draws):
            order = rng.permutation(n)[:size]
            for layer in range(num_layers):
                for method in methods if draw == 0 else methods[:2]:
                    yield Run(f"layers, {size} edits", layer, method, order, draw)
    layer = study.settings.layer
    for _ in range(5 * draws):
        yield Run(f"subsets of {sizes[-1]}", layer, "sequential", rng.permutation(n)[: sizes[-1]])
    for _ in range(8 * draws):
        size = int(np.exp(rng.uniform(np.log(5), np.log(n))))
        yield Run("subsets of any size", layer, "sequential", rng.permutation(n)[:size])
    closeness = np.abs(np.nan_to_num(study.forecasts[layer].superposition))
    for _ in range(8 * draws):
        size, share = sizes[-1], rng.uniform()
        nearest = np.argsort(-closeness[rng.integers(n)])[: round(share * size)]
        rest = rng.permutation(np.setdiff1d(np.arange(n), nearest))[: size - len(nearest)]
        order = rng.permutation(np.concatenate([nearest, rest]))
        yield Run(f"subsets of {size}, colliding more or less", layer, "sequential", order)
    some = rng.permutation(n)[: sizes[-1]]
    gentle = study.forecasts[layer].order()
    gentle = gentle[np.isin(gentle, some)]
    yield Run("orders", layer, "sequential", gentle)
    yield Run("orders", layer, "sequential", gentle[::-1])
    for _ in range(2 * draws):
        yield Run("orders", layer, "sequential", rng.permutation(some))


def spearman(a: Sequence[float], b: Sequence[float]) -> float:
    """Rank correlation, ties sharing their mean rank; NaN where one of both is constant."""
    if len(set(a)) < 2 or len(set(b)) < 2:
        return float("nan")
    return float(np.corrcoef(_ranks(np.asarray(a)), _ranks(np.asarray(b)))[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    below = (values[:, None] > values).sum(axis=1)
    equal = (values[:, None] == values).sum(axis=1)
    return below + (equal - 1) / 2


def main(
    out: Annotated[Path, typer.Option(help="Receives all runs, as JSON.")],
    half: Annotated[Literal["design", "test"], typer.Option(help="Of the facts.")] = "test",
    num_facts: Annotated[int, typer.Option(help="Of the half, drawn at random.")] = 240,
    start: Annotated[int, typer.Option(help="Leave out so many of those drawn.")] = 0,
    sizes: Annotated[str, typer.Option(help="Numbers of edits.")] = "10,40,120",
    draws: Annotated[int, typer.Option(help="Random sets of facts of each size.")] = 2,
) -> None:
    """Forecasts, edits and measures; prints rank correlations."""
    study = Study(half, num_facts, start)
    results = []
    for run in runs(study, [int(size) for size in sizes.split(",")], draws):
        results.append(study.measure(run))
        line = {k: round(v, 3) if isinstance(v, float) else v for k, v in results[-1].items()}
        print(*line.values(), flush=True)
        record = {
            "half": half,
            "num_facts": len(study.facts),
            "settings": dataclasses.asdict(study.settings),
            "unedited_neighborhood": study.neighborhood,
            "runs": results,
        }
        out.write_text(json.dumps(record, indent=1))
    for line in (*tables(results), *recommendations(results, study.settings.layer)):
        print(line)


def tables(results: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Rank correlations of forecasts with measurements, group by group, as Markdown."""
    pairs = (
        ("displacement", "drop"),
        ("displacement", "drop_magnitude"),
        ("rehearsed_loss", "drop"),
        ("rehearsed_loss", "drop_magnitude"),
        ("effect", "efficacy"),
        ("rehearsed_effect", "efficacy"),
        ("carried", "paraphrase"),
        ("rehearsed_carried", "paraphrase"),
        ("forecast_score", "score"),
        ("rehearsed_score", "score"),
    )
    yield f"| runs | n | {' | '.join(f'{a}: {b}' for a, b in pairs)} |"
    yield "| --- | --- |" + " --- |" * len(pairs)
    layers = [run for run in results if run["part"].startswith("layers")]
    groups = {"all layers, methods, sizes": layers}
    for run in layers:
        groups.setdefault(f"{run['part']}, {run['method']}", []).append(run)
        groups.setdefault(f"{run['part']}, all methods", []).append(run)
    for run in results:
        if not run["part"].startswith("layers"):
            groups.setdefault(run["part"], []).append(run)
    for name, group in groups.items():
        found = [spearman([run[a] for run in group], [run[b] for run in group]) for a, b in pairs]
        cells = " | ".join("-" if np.isnan(r) else f"{r:.2f}" for r in found)
        yield f"| {name} | {len(group)} | {cells} |"


def recommendations(results: Sequence[dict[str, Any]], default_layer: int) -> Iterator[str]:
    """How the recommended layer and method did beside others, for each set of facts."""
    yield "| set | by | recommended | its score | default layer, same method | mean of all | best |"
    yield "| --- |" + " --- |" * 6
    sets: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for run in results:
        if run["part"].startswith("layers"):
            sets.setdefault((run["part"], run["set"]), []).append(run)
    for ((part, place), group), by in itertools.product(
        sets.items(), ("forecast_score", "rehearsed_score")
    ):
        chosen = max(group, key=lambda run: run[by])
        beside = next(
            run
            for run in group
            if run["layer"] == default_layer and run["method"] == chosen["method"]
        )
        scores = [run["score"] for run in group]
        yield (
            f"| {part}, set {place} | {by} | layer {chosen['layer']}, {chosen['method']} | "
            f"{chosen['score']:.3f} | {beside['score']:.3f} | {np.mean(scores):.3f} | "
            f"{max(scores):.3f} |"
        )


if __name__ == "__main__":
    typer.run(main)
