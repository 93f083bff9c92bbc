"""Settings side by side: `python scripts/settings_table.py MODEL --sources auto,rule,published`.

Facts that the model knows, none of a pilot's, are edited by every method: each alone, then some
together; all measured as `kis edit` does, without writing a model, so that a method of several
layers writes the last of them. Prints a table in Markdown, and the rank correlation of the damage
foreseen with the change of log p of held-out text. Rows are kept in the file of `--out`, a source
after another; the same command goes on with those that it lacks.
"""

import dataclasses
import itertools
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from kis_jax.checkpoints.ledger import rule_of
from kis_jax.checkpoints.loading import load_model
from kis_jax.cli.options import facts_and_corpus
from kis_jax.core.arrays.precision import HOST
from kis_jax.core.editing.interference import text_damage
from kis_jax.core.editing.ledger import Edit
from kis_jax.core.editing.replay import Asked, replay
from kis_jax.data.continuations import Continuation
from kis_jax.data.corpora import tokenize_corpus
from kis_jax.data.facts import Fact, read_facts
from kis_jax.data.neighbors import without_edited_neighbors
from kis_jax.edit.closed_forms import ask, editable, space_of, wanted_of, weight_of
from kis_jax.edit.job import target_settings
from kis_jax.factlm import NAME
from kis_jax.models.memory import memory_kernel
from kis_jax.passes.inputs import ScanRequest, open_inputs
from kis_jax.passes.intervals import mean_intervals
from kis_jax.passes.measuring import measure_second_moments
from kis_jax.passes.own_text import HELD_OUT, open_text
from kis_jax.passes.scores.measures import KINDS, Evaluation
from kis_jax.passes.scores.recall import recall
from kis_jax.passes.targets.chosen import chosen_settings, tuned_file
from kis_jax.passes.targets.settings import EditSettings, shipped_record
from kis_jax.passes.targets.values import TargetValues, target_values
from kis_jax.tune.run import fewer
from kis_jax.tune.trials import Trials

METHODS: tuple[str, ...] = ("sequential", "constrained", "batch", "null-space")
_TEXTS, _LENGTH = 12, 64
_EDITED_TOGETHER = 40  # facts of a row, at least, where there are as many


def main(
    model: Annotated[str, typer.Argument(help="A directory.")] = NAME,
    sources: Annotated[str, typer.Option(help="Of settings; a file may stand among them.")] = (
        "auto,rule,published"
    ),
    facts: Annotated[str, typer.Option(help="Facts, an equal part of each source.")] = "",
    num_facts: Annotated[int, typer.Option(help="Known ones, none of the pilot.")] = 60,
    sizes: Annotated[str, typer.Option(help="Edits in one model.")] = "1,10,40",
    damage: Annotated[int, typer.Option(help="Single edits whose damage is measured.")] = 0,
    second_moments: Annotated[Path, typer.Option(help="Folder; measured if need be.")] = Path(
        "out/settings_table/second_moments"
    ),
    out: Annotated[Path, typer.Option(help="JSON of all numbers.")] = Path("settings_table.json"),
) -> None:
    """Compares settings of a model on facts that it knows."""
    own, corpus = facts_and_corpus(model, facts or None, None)
    inputs = open_inputs(ScanRequest(model, own.split(",")[0], corpus, layers="all"))
    loaded, of_model = load_model(inputs.directory), inputs.fingerprints["model"]
    second_moments.mkdir(parents=True, exist_ok=True)
    moments, _ = measure_second_moments(inputs, loaded, second_moments)
    told: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {"rows": []}
    done = {row["source"] for row in told["rows"]}
    some = _known_facts(inputs, loaded, own.split(","), _pilot(of_model), num_facts)
    for source in sources.split(","):
        if source in done:
            continue
        began = time.monotonic()
        settings = chosen_settings(inputs.config, source=source, fingerprint=of_model)
        layer = settings.layer
        c = np.asarray(moments.total[layer], np.float64) / int(moments.count[layer])
        bench = _Bench(inputs, loaded, some, settings, c)
        told["rows"] += [{"source": source, **row} for row in bench.rows(sizes)]
        told[source] = {"layer": layer, "origin": settings.origin, "facts": len(some)}
        if damage:
            told[source]["damage"] = bench.damage(damage)
        told[source]["seconds"] = time.monotonic() - began
        out.write_text(json.dumps(told, indent=1))
    _print(told)


def _pilot(of_model: str) -> set[tuple[str, Any]]:
    """The facts of the model's pilot: where they are from, and which."""
    kept = tuned_file(of_model)
    told = json.loads(kept.read_text()) if kept.is_file() else shipped_record(of_model)
    return set() if told is None else {(told["facts"], case) for case in told["pilot"]}


def _known_facts(inputs, model, sources, pilot, most) -> list[Fact]:
    """An equal part of each source, in a random order, numbered anew."""
    found = []
    for source in sources:
        asked = [fact for fact in read_facts(source) if fact.target_true]
        asked = [fact for fact in asked if (source, fact.case_id) not in pilot]
        order = np.random.default_rng(1).permutation(len(asked))[: 4 * most]
        asked = [fewer(asked[place]) for place in order]
        right = recall(model, inputs.tokenizer, asked)
        known = [fact for fact, knows in zip(asked, right, strict=True) if knows]
        found.append(known[: -(-most // len(sources))])
    mixed = [fact for row in itertools.zip_longest(*found) for fact in row if fact is not None]
    return [dataclasses.replace(fact, case_id=place) for place, fact in enumerate(mixed)][:most]


class _Bench:
    """Some settings of a model: facts with their values, and what is asked of them."""

    def __init__(
        self, inputs, model, facts: Sequence[Fact], settings: EditSettings, c: np.ndarray
    ) -> None:
        self._inputs, self._model, self._facts = inputs, model, facts
        self._settings, self._c, self._layer = settings, c, settings.layer
        self._kernel = np.asarray(memory_kernel(model, settings.layer), np.float64)
        self._found: dict[Any, TargetValues] = {}

    def rows(self, sizes: str) -> list[dict[str, Any]]:
        """For each method and number of edits, means with intervals; and without any edit."""
        n, rows = len(self._facts), []
        alone = Trials(self._model, self._inputs.tokenizer, self._facts, self._layer)
        before, _ = alone.together(np.zeros_like(self._kernel))
        rows.append({"method": "unedited", "edits": 0, **_means([(before, before)])})
        singles: dict[str, Any] = {}
        for method in METHODS:
            one = "sequential" if method == "constrained" else method  # of one fact they agree
            if one not in singles:
                edits = [self._edit(np.array([i]), method) for i in range(n)]
                along = np.concatenate([np.asarray(edit.directions) for edit in edits])
                rest = np.concatenate([np.asarray(edit.residuals) for edit in edits])
                singles[one] = alone.alone(along, rest)[0]
            rows.append({"method": method, "edits": 1, **_means([(before, singles[one])])})
            typer.echo(f"{method}, each alone")
        for size in (int(size) for size in sizes.split(",") if 1 < int(size) <= n):
            count = max(1, min(n, _EDITED_TOGETHER) // size)
            groups = [np.arange(i * size, (i + 1) * size) for i in range(count)]
            stages = [self._trials(group) for group in groups]
            unedited = [stage.together(np.zeros_like(self._kernel))[0] for stage in stages]
            for method in METHODS:
                after = [
                    stage.together(np.asarray(self._edit(group, method).delta))[0]
                    for stage, group in zip(stages, groups, strict=True)
                ]
                found = _means(list(zip(unedited, after, strict=True)))
                rows.append({"method": method, "edits": size, "groups": count, **found})
                typer.echo(f"{method}, {size} together")
        return rows

    def damage(self, most: int) -> dict[str, float]:
        """Rank correlation of the damage foreseen of single edits with the change of log p."""
        asked, _ = self._asked(np.arange(len(self._facts)), "sequential")
        text = self._trials(np.zeros(0, int), text=_text(self._inputs, self._model))
        _, before = text.together(np.zeros_like(self._kernel))
        own = np.sum(asked.keys * asked.solved, axis=1)
        foreseen, changes = [], []
        for i, scale in itertools.product(range(len(own)), (1.0, 2.0)):
            if len(foreseen) == most or not own[i] > 0:
                break
            residuals = scale * asked.initial_residuals[i : i + 1]
            edit = Edit(asked.solved[i : i + 1] / own[i], residuals)
            foreseen.append(float(HOST.run(text_damage, edit, self._kernel, self._c)))
            _, after = text.together(np.asarray(edit.directions).T @ np.asarray(edit.residuals))
            changes.append(float(np.mean(before - after)))
        return _rank_correlation(np.array(foreseen), np.array(changes))

    def _trials(self, group: np.ndarray, **more: Any) -> Trials:
        facts = without_edited_neighbors([self._facts[i] for i in group])
        return Trials(self._model, self._inputs.tokenizer, facts, self._layer, **more)

    def _edit(self, group: np.ndarray, method: str) -> Edit:
        asked, weight = self._asked(group, method)
        kept = np.flatnonzero([reason is None for reason in editable(asked, method)])
        return HOST.run(replay, asked.take(kept), rule_of(method), weight=weight)

    def _asked(self, group: np.ndarray, method: str) -> tuple[Asked, float | None]:
        wanted = target_settings(self._settings, method)
        if wanted not in self._found:
            began = time.monotonic()
            self._found[wanted] = target_values(
                self._model,
                self._inputs.tokenizer,
                self._facts,
                layer=self._layer,
                settings=wanted,
            )
            typer.echo(f"{time.monotonic() - began:.0f} s for {len(self._facts)} v*")
        targets, space = self._found[wanted], self._space(method)
        every = ask(self._kernel, *wanted_of(targets, self._kernel, space), space)
        keys = np.asarray(targets.prompt_keys, np.float64)[group]
        return every.take(group), weight_of(method, self._settings, space, keys)

    def _space(self, method: str) -> Any:
        kind = "null-space" if method == "null-space" else "constrained"
        if kind not in self.__dict__:
            self.__dict__[kind] = space_of(self._c, kind, self._settings)
        return self.__dict__[kind]


def _means(pairs: Sequence[tuple[Evaluation, Evaluation]]) -> dict[str, Any]:
    """Means with intervals that keep together what was edited together; `lost` is paired."""
    columns = {kind: np.concatenate([getattr(after, kind) for _, after in pairs]) for kind in KINDS}
    columns["lost"] = np.concatenate([b.neighborhood - a.neighborhood for b, a in pairs])
    groups = np.repeat(np.arange(len(pairs)), [len(after.case_ids) for _, after in pairs])
    together = groups if len(pairs) > 1 else None
    return mean_intervals(columns, combined=KINDS, groups=together)


def _text(inputs, model) -> list[Continuation]:
    """Text that C does not hold."""
    corpus = open_text(
        inputs.request.corpus,
        limit=None,
        config=inputs.config,
        tokenizer=inputs.tokenizer,
        model=inputs.fingerprints["model"],
        start=HELD_OUT,
    )
    some = list(itertools.islice(corpus.read(model), 3000 + _TEXTS))[-_TEXTS:]
    tokens = tokenize_corpus(some, inputs.tokenizer, context_length=_LENGTH)
    return [Continuation(list(one), 1) for one in tokens]


def _rank_correlation(x: np.ndarray, y: np.ndarray) -> dict[str, float]:
    def rho(places: np.ndarray) -> float:
        first, second = (np.argsort(np.argsort(part[places])) for part in (x, y))
        return float(np.corrcoef(first, second)[0, 1])

    rng = np.random.default_rng(0)
    drawn = [rho(rng.integers(len(x), size=len(x))) for _ in range(500)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return {"edits": len(x), "rho": rho(np.arange(len(x))), "low": float(low), "high": float(high)}


def _print(told: dict[str, Any]) -> None:
    columns = (*KINDS, "lost")
    typer.echo(f"| settings | method | edits | {' | '.join(columns)} |")
    typer.echo(f"| --- | --- | ---: |{len(columns) * ' ---: |'}")
    for row in told["rows"]:
        cells = [
            f"{row[k]['mean']:.2f} ({row[k]['low']:.2f}-{row[k]['high']:.2f})" for k in columns
        ]
        typer.echo(f"| {row['source']} | {row['method']} | {row['edits']} | {' | '.join(cells)} |")
    for source in dict.fromkeys(row["source"] for row in told["rows"]):
        typer.echo(f"{source}: {told[source]}")


if __name__ == "__main__":
    typer.run(main)
