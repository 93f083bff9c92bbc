"""Settings side by side: `python scripts/settings_table.py MODEL --sources auto,rule,published`.

Facts that the model knows, none of a pilot's, are edited by every method: each alone, then some
together; all measured as `kis edit` does, without writing a model. Prints a table in Markdown, and
the rank correlation of the damage foreseen with the change of log p of held-out text.
"""

import itertools
import json
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from kis_jax import load, second_moments
from kis_jax.checkpoints import fingerprint
from kis_jax.checkpoints.hub import locate
from kis_jax.checkpoints.ledger import RULES
from kis_jax.core.arrays.precision import HOST
from kis_jax.core.editing.interference import text_damage
from kis_jax.core.editing.ledger import Edit
from kis_jax.core.editing.replay import replay
from kis_jax.data.continuations import Continuation
from kis_jax.data.corpora import tokenize_corpus
from kis_jax.data.facts import read_facts
from kis_jax.data.neighbors import without_edited_neighbors
from kis_jax.edit.closed_forms import Method, ask, editable, space_of, wanted_of, weight_of
from kis_jax.edit.job import target_settings
from kis_jax.factlm import NAME
from kis_jax.models import Decoder
from kis_jax.models.memory import memory_kernel
from kis_jax.passes.intervals import mean_intervals
from kis_jax.passes.own_text import SELF, open_text
from kis_jax.passes.scores.measures import KINDS
from kis_jax.passes.scores.recall import recall
from kis_jax.passes.targets.chosen import chosen_settings, tuned_file
from kis_jax.passes.targets.values import target_values
from kis_jax.tune.trials import Trials

METHODS: tuple[Method, ...] = ("sequential", "constrained", "batch", "null-space")
_TEXTS, _LENGTH = 12, 64


def main(
    model: Annotated[str, typer.Argument(help="A directory.")] = NAME,
    sources: Annotated[str, typer.Option(help="Of settings; a file may stand among them.")] = (
        "auto,rule,published"
    ),
    facts: Annotated[str, typer.Option(help="Facts.")] = "",
    num_facts: Annotated[int, typer.Option(help="Known ones, none of the pilot.")] = 60,
    sizes: Annotated[str, typer.Option(help="Edits in one model.")] = "1,10,40",
    damage: Annotated[int, typer.Option(help="Single edits whose damage is measured.")] = 100,
    out: Annotated[Path, typer.Option(help="JSON of all numbers.")] = Path("settings_table.json"),
) -> None:
    """Compares settings of a model on facts that it knows."""
    loaded, tokenizer = load(model)
    if not isinstance(loaded, Decoder) or tokenizer is None:
        raise ValueError(f"model: expected a decoder with a tokenizer, found {model}")
    of_model = fingerprint.of_model(locate(model))
    own = facts or (NAME if model == NAME else "world")
    corpus = open_text(
        NAME if model == NAME else SELF,
        limit=3000 if model == NAME else None,
        config=loaded.config,
        tokenizer=tokenizer,
        model=of_model,
    )
    documents = list(corpus.read(loaded))
    text = [
        Continuation(list(one), 1)
        for one in tokenize_corpus(documents[:_TEXTS], tokenizer, context_length=_LENGTH)
    ]
    moments = second_moments(loaded, tokenizer, documents[_TEXTS:])
    pilot = set()
    if tuned_file(of_model).is_file():
        pilot = set(json.loads(tuned_file(of_model).read_text())["pilot"])
    asked = [fact for fact in read_facts(own) if fact.case_id not in pilot and fact.target_true]
    known = recall(loaded, tokenizer, asked)
    some = [fact for fact, right in zip(asked, known, strict=True) if right]
    order = np.random.default_rng(1).permutation(len(some))[:num_facts]
    some = [some[place] for place in order]
    rows, told = [], {}
    for source in sources.split(","):
        settings = chosen_settings(loaded.config, source=source, fingerprint=of_model)
        layer = settings.layer
        c = np.asarray(moments.total[layer], np.float64) / int(moments.count[layer])
        kernel = np.asarray(memory_kernel(loaded, layer), np.float64)
        alone = Trials(loaded, tokenizer, some, layer)
        groups = {
            size: [
                np.arange(first, first + size) for first in range(0, len(some) - size + 1, size)
            ][: max(1, 40 // size)]
            for size in map(int, sizes.split(","))
            if 1 < size <= len(some)
        }
        stages = {
            (size, number): Trials(
                loaded, tokenizer, without_edited_neighbors([some[i] for i in group]), layer
            )
            for size, chosen in groups.items()
            for number, group in enumerate(chosen)
        }
        found = {}
        for method in METHODS:
            wanted = target_settings(settings, method)
            if wanted not in found:
                began = time.monotonic()
                found[wanted] = target_values(loaded, tokenizer, some, layer=layer, settings=wanted)
                typer.echo(f"{source}: {time.monotonic() - began:.0f} s for {len(some)} v*")
            targets = found[wanted]
            space = space_of(c, method, settings)
            every = ask(kernel, *wanted_of(targets, kernel, space), space)
            if not told.get(source):
                told[source] = _damage(loaded, tokenizer, layer, every, kernel, c, text, damage)
            for size in (1, *groups):
                columns = {kind: [] for kind in KINDS}
                for number in range(len(groups[size])) if size > 1 else (0,):
                    group = groups[size][number] if size > 1 else np.arange(len(some))
                    prompt_keys = np.asarray(targets.prompt_keys, np.float64)[group]
                    weight = weight_of(method, settings, space, prompt_keys)
                    here = every.take(group)
                    if size == 1:
                        singles = [
                            HOST.run(replay, here.take(np.array([i])), RULES[method], weight=weight)
                            for i in range(len(group))
                        ]
                        along = np.concatenate([np.asarray(one.directions) for one in singles])
                        rest = np.concatenate([np.asarray(one.residuals) for one in singles])
                        result, _ = alone.alone(along, rest)
                    else:
                        kept = np.flatnonzero([reason is None for reason in editable(here, method)])
                        edit = HOST.run(replay, here.take(kept), RULES[method], weight=weight)
                        result, _ = stages[size, number].together(np.asarray(edit.delta))
                    for kind in KINDS:
                        columns[kind].append(getattr(result, kind))
                means = mean_intervals(
                    {kind: np.concatenate(parts) for kind, parts in columns.items()}, combined=KINDS
                )
                rows.append({"source": source, "method": method, "edits": size, **means})
        before, _ = alone.together(np.zeros_like(kernel))
        columns = {kind: getattr(before, kind) for kind in KINDS}
        rows.append({
            "source": source, "method": "unedited", "edits": 0,
            **mean_intervals(columns, combined=KINDS),
        })  # fmt: skip
        out.write_text(json.dumps({"rows": rows, "damage": told}, indent=1))
        _print(rows)
    for source, one in told.items():
        typer.echo(f"{source}: damage foreseen and change of log p, {one}")


def _damage(model, tokenizer, layer, asked, kernel, c, text, most) -> dict[str, float]:
    """Rank correlation of the damage foreseen of single edits with the change of log p of text."""
    some = Trials(model, tokenizer, [], layer, text=text)
    _, before = some.together(np.zeros_like(kernel))
    own = np.sum(asked.keys * asked.solved, axis=1)
    foreseen, changes = [], []
    for i, scale in itertools.product(range(len(own)), (1.0, 2.0)):
        if len(foreseen) == most or not own[i] > 0:
            break
        edit = Edit(asked.solved[i : i + 1] / own[i], scale * asked.requested[i : i + 1])
        foreseen.append(float(HOST.run(text_damage, edit, kernel, c)))
        _, after = some.together(np.asarray(edit.directions).T @ np.asarray(edit.residuals))
        changes.append(float(np.mean(before - after)))
    return _rank_correlation(np.array(foreseen), np.array(changes))


def _rank_correlation(x: np.ndarray, y: np.ndarray) -> dict[str, float]:
    def rho(places: np.ndarray) -> float:
        first, second = (np.argsort(np.argsort(part[places])) for part in (x, y))
        return float(np.corrcoef(first, second)[0, 1])

    rng = np.random.default_rng(0)
    drawn = [rho(rng.integers(len(x), size=len(x))) for _ in range(500)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return {"edits": len(x), "rho": rho(np.arange(len(x))), "low": float(low), "high": float(high)}


def _print(rows) -> None:
    typer.echo("| settings | method | edits | efficacy | paraphrase | neighborhood |")
    typer.echo("| --- | --- | ---: | ---: | ---: | ---: |")
    for row in rows:
        cells = [f"{row[k]['mean']:.2f} ({row[k]['low']:.2f}-{row[k]['high']:.2f})" for k in KINDS]
        typer.echo(f"| {row['source']} | {row['method']} | {row['edits']} | {' | '.join(cells)} |")


if __name__ == "__main__":
    typer.run(main)
