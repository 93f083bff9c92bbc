"""Compares the methods of editing on factlm: `python scripts/edit_table.py`.

Each run is kept in a file of its own; the same command goes on where it was stopped, and ends by
writing the table into `docs/editing.md`.
"""

import json
from pathlib import Path
from typing import Annotated

import typer

from kis_jax import load
from kis_jax.data.corpora import open_corpus
from kis_jax.data.facts import read_facts
from kis_jax.edit.closed_forms import METHODS
from kis_jax.edit.table import EditTable, Run, markdown_table
from kis_jax.factlm import NAME
from kis_jax.passes.second_moments import second_moments

DOCS = Path(__file__).parent.parent / "docs" / "editing.md"
BEGIN, END = "<!-- table: scripts/edit_table.py -->\n", "<!-- end of table -->\n"
# Settings were tuned on the facts whose number is a multiple of this; the table uses the others.
TUNED_ON = 5
# Of the corpus, one document in so many is kept from C; so many of these serve for perplexity.
HELD_OUT = 10
NUM_HELD_OUT = 200


def main(
    runs: Annotated[
        str, typer.Option(help="Numbers of edits, each with how many random subsets.")
    ] = "1:40,10:10,100:3,500:2",
    methods: Annotated[str, typer.Option(help="Separated by commas.")] = ",".join(METHODS),
    out: Annotated[Path, typer.Option(help="Folder of the runs.")] = Path("out/edit_table"),
    docs: Annotated[Path, typer.Option(help="Receives the table.")] = DOCS,
) -> None:
    """Edits random subsets of factlm's facts by every method, and measures what became of it."""
    model, tokenizer = load(NAME)
    if tokenizer is None:
        raise ValueError(f"{NAME}: expected a tokenizer beside the model, found none")
    documents = list(open_corpus(NAME).documents())
    plain = [text for place, text in enumerate(documents) if place % HELD_OUT]
    facts = [fact for fact in read_facts(NAME) if fact.case_id % TUNED_ON]
    moments = second_moments(model, tokenizer, plain)
    table = EditTable(model, tokenizer, facts, moments, documents[::HELD_OUT][:NUM_HELD_OUT])
    out.mkdir(parents=True, exist_ok=True)
    results = []
    for method in methods.split(","):
        for size, count in (map(int, pair.split(":")) for pair in runs.split(",")):
            for seed in range(count):
                results.append(_kept(out, table, Run(method, size, seed)))
            typer.echo(f"{method}, {size} edits: {count} runs")
    _write(docs, markdown_table(results))


def _kept(out: Path, table: EditTable, run: Run) -> dict:
    """The result of a run, from its file if there is one."""
    file = out / f"{run.name}.json"
    if not file.exists():
        part = file.with_suffix(".part")
        part.write_text(json.dumps(table.measure(run)))
        part.rename(file)
    return json.loads(file.read_text())


def _write(docs: Path, table: str) -> None:
    """Puts the table between its marks."""
    text = docs.read_text() if docs.exists() else BEGIN + END
    before, rest = text.split(BEGIN)
    docs.write_text(before + BEGIN + table + END + rest.split(END)[1])


if __name__ == "__main__":
    typer.run(main)
