"""`kis plan`: what edits would collide, where to put them, what they would break; none is made."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kis_jax.cli import options
from kis_jax.factlm import NAME


def plan(
    model: options.Model = NAME,
    facts: options.EditedFacts = None,
    corpus: options.Corpus = None,
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("kis-plan"),
    num_facts: Annotated[
        int, typer.Option(help="Facts to be edited, the first so many of the file.")
    ] = 500,
    layers: Annotated[
        str, typer.Option(help="Layers that come into question: all, 0,3 or 0:4.")
    ] = "all",
    max_superposition: Annotated[
        float, typer.Option(help="Two facts collide above this |p|; the exit status is then 1.")
    ] = 0.5,
    max_displacement: Annotated[
        float,
        typer.Option(
            help="Bound on how far other knowledge moves, in lengths of the residual stream, for "
            "the number of edits that a layer bears."
        ),
    ] = 1.0,
    methods: Annotated[
        str, typer.Option(help="Methods that come into question.")
    ] = "sequential,constrained,batch,null-space",
    num_others: Annotated[
        int,
        typer.Option(
            help="Texts to be left alone, from neighborhood prompts and later facts of the file."
        ),
    ] = 256,
    num_rehearsed: Annotated[
        int,
        typer.Option(
            help="Facts on whose prompts each layer and method is tried, edited in memory; 0 for "
            "closed forms alone."
        ),
    ] = 100,
    num_documents: options.DefaultDocuments = None,
    document_length: options.DocumentLength = None,
    ridge: options.Ridge = 0.0,
    inverse: options.Inverse = "auto",
    second_moments: options.SecondMoments = None,
    settings: options.Settings = "auto",
    changes: options.Set = None,
    position: options.EditPosition = None,
    strict: options.Strict = False,
) -> None:
    """Tells what edits would do before any is made: collisions, damage, the best layer and method.

    Every layer and method is foreseen in closed form, then tried on a sample of prompts with the
    memory of the layer edited in a copy of it; no file of the model is written.

    Exit status, as of a linter: 0 if all is well; 1 if two facts collide above
    --max-superposition at one of the layers, or contradict each other; 2 for an error.

    Without a model: factlm, the small one that comes with kis_jax, with its facts and its corpus.

    Writes plan.json, figures/ and report.html into the output folder, in place of an earlier plan;
    and second_moments/, which the same command takes up again if it was interrupted.
    """
    from kis_jax.cli import console
    from kis_jax.cli.first_pilot import pilot_first
    from kis_jax.cli.measuring import model_and_moments
    from kis_jax.passes.store import store_of
    from kis_jax.plan import console as plan_console
    from kis_jax.plan.inputs import PlanRequest, open_plan, parse_planned
    from kis_jax.plan.page import write_plan_report
    from kis_jax.plan.record import check_plan_directory, write_plan
    from kis_jax.plan.run import make_plan

    facts, corpus = options.facts_and_corpus(model, facts, corpus)
    request = PlanRequest(
        model,
        facts,
        corpus,
        num_facts=num_facts,
        layers=layers,
        max_superposition=max_superposition,
        max_displacement=max_displacement,
        methods=parse_planned(methods),
        num_others=num_others,
        num_rehearsed=num_rehearsed,
        num_documents=num_documents,
        document_length=document_length,
        ridge=ridge,
        inverse=inverse,
        settings=settings,
        changes=tuple(changes or ()),
        position=position,
        strict=strict,
    )
    inputs = open_plan(request)
    check_plan_directory(out)
    kept = store_of(second_moments or out / "second_moments")
    loaded, moments = model_and_moments(inputs.scan, kept, out)
    if pilot_first(inputs.scan, loaded, moments, inputs.facts, request):
        inputs = open_plan(request)
    with plan_console.plan_progress(len(inputs.facts), len(inputs.scan.layers)) as on_layer:
        record = make_plan(inputs, loaded, moments, on_layer=on_layer)
    write_plan(out, record)
    page = write_plan_report(out)
    plan_console.print_plan(record)
    console.print_done(page)
    if record["num_collisions"] or record["contradictions"]:
        raise typer.Exit(1)
