"""`kis tune`: settings found by the model, not taken from a table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kis_jax.cli import options
from kis_jax.factlm import NAME


def tune(
    model: options.Model = NAME,
    budget: Annotated[
        str, typer.Option(help="Time that it may take, all of it: 10m, 90s or 1h.")
    ] = "10m",
    facts: options.EditedFacts = None,
    corpus: options.Corpus = None,
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("kis-tune"),
    second_moments: options.SecondMoments = None,
    num_documents: options.DefaultDocuments = None,
    changes: options.Set = None,
    position: options.EditPosition = None,
    seed: Annotated[int, typer.Option(help="Of the choice of facts for the pilot.")] = 0,
) -> None:
    """Finds the layer, strength, weight and null space with which a model is best edited.

    By a pilot on facts that the model knows: what is cheap to know of each layer first, then real
    edits at the best candidates, more and more facts for fewer and fewer of them, scored by
    efficacy, paraphrase and neighborhood.

    Writes settings.json, with its evidence, and report.html into the output folder; and keeps the
    settings where kis edit, plan and lifelong find them (--settings auto, their default).
    """
    import time

    began = time.monotonic()
    from kis_jax.checkpoints.loading import load_model
    from kis_jax.cli import console
    from kis_jax.data.rewrites import EDIT_POSITIONS
    from kis_jax.passes.inputs import ScanRequest, open_inputs
    from kis_jax.passes.measuring import measure_second_moments
    from kis_jax.passes.store import store_of
    from kis_jax.passes.targets.chosen import RULE, chosen_settings
    from kis_jax.tune import console as tune_console
    from kis_jax.tune import run
    from kis_jax.tune.page import write_tune_report

    seconds = run.parse_budget(budget)
    facts, corpus = options.facts_and_corpus(model, facts, corpus)
    named = position or any(
        change.strip().startswith("target.position") for change in changes or ()
    )
    changed = (*(changes or ()), *([f"target.position={position}"] if position else []))
    inputs = open_inputs(
        ScanRequest(
            model,
            facts,
            corpus,
            num_facts=100_000,
            num_documents=num_documents,
            layers="all",
        )
    )
    settings = chosen_settings(inputs.config, source=RULE, changes=changed)
    run.check_tune_directory(out)
    kept = store_of(second_moments or out / "second_moments")
    loaded = load_model(inputs.directory)
    out.mkdir(parents=True, exist_ok=True)
    documents = inputs.corpus.num_documents or num_documents
    with console.corpus_progress(documents) as on_batch:
        moments, _ = measure_second_moments(
            inputs, loaded, kept, end=began + seconds * run.FOR_MOMENTS, on_batch=on_batch
        )
    record = run.tune(
        inputs,
        loaded,
        moments,
        settings,
        budget=seconds,
        began=began,
        positions=(settings.target.position,) if named else EDIT_POSITIONS,
        seed=seed,
        on_trial=tune_console.print_trial,
    )
    found = run.write_tuned_settings(out, record)
    page = write_tune_report(out)
    tune_console.print_tuned(record, found)
    console.print_done(page)
