"""`kis lifelong`: facts edited one after another, measured at checkpoints on the way."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from kis_jax.cli import options
from kis_jax.factlm import NAME


def lifelong(
    model: options.Model = NAME,
    facts: options.EditedFacts = None,
    corpus: options.Corpus = None,
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("kis-lifelong"),
    layer: Annotated[
        int | None,
        typer.Option(help="Layer to edit. [default: that of the literature for the family]"),
    ] = None,
    steps: Annotated[
        str | None,
        typer.Option(
            help="Numbers of edits after which all is measured; the last is the end. [default: "
            "those of 1,2,5,10,20,50,100,200,500 that there are facts for]"
        ),
    ] = None,
    method: Annotated[
        str,
        typer.Option(
            help="Of editing, several side by side, or all. sequential: the paper's rule, each "
            "edit on the kernel the last one left; rome: the same, target values always "
            "recomputed; constrained: earlier values stay exact; batch (MEMIT) and null-space "
            "(AlphaEdit): the facts between two checkpoints together, in least squares, keys of "
            "earlier ones kept; finetune: gradient steps on the kernel, the same batches; "
            "batch-anew (MEMIT again and again, no earlier key kept), lyaplock, evoedit, betaedit. "
            "With filters after a +: alphaedit+anchor+protect."
        ),
    ] = "sequential,constrained",
    batch: Annotated[
        int | None,
        typer.Option(
            help="Edits made together, such as 1 or 20. [default: all between two checkpoints]"
        ),
    ] = None,
    targets: Annotated[
        Literal["fixed", "recomputed"],
        typer.Option(
            help="Target values v*: found once on the unedited model; or on the model as it is "
            "when a fact's turn (for batch and null-space: its batch's) comes."
        ),
    ] = "fixed",
    num_others: Annotated[
        int, typer.Option(help="Facts after the edited ones whose keys are watched.")
    ] = 200,
    num_documents: Annotated[
        int | None,
        typer.Option(
            help="Documents for the second moment, from the start. [default: all but those held "
            "out, at most 100000; of text that the model writes, 32 tokens for each dimension of "
            "its keys]"
        ),
    ] = None,
    document_length: options.DocumentLength = None,
    held_out: Annotated[
        str | None,
        typer.Option(
            help="Text for perplexity and for keys of ordinary text. [default: documents of the "
            "corpus after those of the second moment, or others that the model writes]"
        ),
    ] = None,
    num_held_out: Annotated[int, typer.Option(help="Documents held out, at most.")] = 200,
    most_evaluated: Annotated[
        int | None,
        typer.Option(
            help="Score at most so many facts at a checkpoint, spread over the edited ones. "
            "[default: all]"
        ),
    ] = None,
    generated: Annotated[
        bool,
        typer.Option(
            "--generated",
            help="Score too what the model writes by itself: exact match and containment.",
        ),
    ] = False,
    fluency: Annotated[
        bool, typer.Option("--fluency", help="Also generate text, and measure its entropy.")
    ] = False,
    probe: Annotated[
        str | None,
        typer.Option(
            help="Puzzles to be answered at each checkpoint, mcqa:FILE: a .npy (BRAINTEASER as "
            "published), .json or .jsonl file, several joined by commas, or mcqa:factlm-test."
        ),
    ] = None,
    ridge: options.Ridge = 0.0,
    inverse: options.Inverse = "auto",
    second_moments: options.SecondMoments = None,
    settings: options.Settings = "auto",
    changes: options.Set = None,
    position: options.EditPosition = None,
    strict: options.Strict = False,
) -> None:
    """Edits facts one after another, and measures what becomes of them and of all the rest.

    At each step: efficacy, paraphrase and neighborhood of the edits so far, retention of the
    earlier ones, perplexity on held-out text; how far values of edited and of untouched keys have
    moved, foreseen from their superposition alone and measured on the edited kernel; and where
    collapse sets in.

    Without a model: factlm, the small one that comes with kis_jax, with its facts and its corpus.

    Writes lifelong.json, figures/ and report.html into the output folder; and progress/, from
    which the same command goes on if it was interrupted. Methods may be added later.
    """
    from kis_jax.cli import console
    from kis_jax.cli.first_pilot import pilot_first
    from kis_jax.cli.measuring import model_and_moments
    from kis_jax.lifelong import console as lifelong_console
    from kis_jax.lifelong.inputs import (
        LifelongRequest,
        open_lifelong,
        parse_methods,
        parse_steps,
    )
    from kis_jax.lifelong.page import write_lifelong_report
    from kis_jax.lifelong.record import check_lifelong_directory, write_lifelong
    from kis_jax.lifelong.run import run_lifelong
    from kis_jax.passes.store import store_of

    facts, corpus = options.facts_and_corpus(model, facts, corpus)
    request = LifelongRequest(
        model,
        facts,
        corpus,
        layer=layer,
        steps=None if steps is None else parse_steps(steps),
        methods=parse_methods(method),
        batch=batch,
        targets=targets,
        num_others=num_others,
        num_documents=num_documents,
        document_length=document_length,
        held_out=held_out,
        num_held_out=num_held_out,
        most_evaluated=most_evaluated,
        generated=generated,
        fluency=fluency,
        ridge=ridge,
        inverse=inverse,
        settings=settings,
        changes=tuple(changes or ()),
        position=position,
        strict=strict,
        probe=probe,
    )
    inputs = open_lifelong(request)
    check_lifelong_directory(out)
    kept = store_of(second_moments or out / "second_moments")
    loaded, moments = model_and_moments(inputs.scan, kept, out)
    if pilot_first(inputs.scan, loaded, moments, inputs.facts, request, bound=layer is not None):
        inputs = open_lifelong(request)
    inputs = inputs.written(loaded)
    with lifelong_console.lifelong_progress(inputs.steps[-1]) as on_step:
        record = run_lifelong(inputs, loaded, moments, out / "progress", on_step=on_step)
    write_lifelong(out, record)
    page = write_lifelong_report(out)
    print(console.known_in_words([fact["known"] for fact in record["facts"]]))
    lifelong_console.print_lifelong(record["methods"])
    console.print_done(page)
