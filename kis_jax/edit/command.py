"""`kis edit`: facts written into a model, with the way back open."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kis_jax.cli import options
from kis_jax.factlm import NAME


def edit(
    model: options.Model = NAME,
    facts: options.EditedFacts = None,
    method: Annotated[
        str,
        typer.Option(
            help="sequential: the paper's rule, one edit after another; rome: the same, each "
            "target value found on the model the last edit left; constrained (emmet): all values "
            "exact; batch (memit, rlsedit); null-space (alphaedit); finetune: gradient steps on "
            "the kernel; lyaplock, evoedit, betaedit. With filters of what is asked or written "
            "after a +: alphaedit+anchor+protect, rlsedit+sphere."
        ),
    ] = "constrained",
    layer: Annotated[
        str | None,
        typer.Option(
            help="Layer to write; for batch also 2,3 or 2:4. [default: that of the literature "
            "for the family]"
        ),
    ] = None,
    corpus: options.Corpus = None,
    second_moments: Annotated[
        Path | None,
        typer.Option(
            help="Folder of a finished kis scan, whose documents then count; or, with a corpus, "
            "where second moments are kept for the next edit. [default: beside the output]"
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the edited model.")] = Path("kis-edit"),
    num_facts: Annotated[
        int | None, typer.Option(help="Take the first so many facts. [default: all]")
    ] = None,
    num_documents: options.DefaultDocuments = None,
    document_length: options.DocumentLength = None,
    ridge: options.Ridge = 0.0,
    inverse: options.Inverse = "auto",
    original_keys: Annotated[
        bool,
        typer.Option(
            "--original-keys",
            help="Of rome: keys as in its authors' program, which is known to collapse models.",
        ),
    ] = False,
    at_most_damage: Annotated[
        float | None,
        typer.Option(
            help="Bound on the damage to ordinary text that is foreseen: how far the layer's "
            "answers move, squared, as a share of them. Beyond it, less is written of all facts."
        ),
    ] = None,
    settings: options.Settings = "auto",
    changes: options.Set = None,
    position: options.EditPosition = None,
    strict: options.Strict = False,
    after: Annotated[
        Path | None,
        typer.Option(
            help="Folder of an earlier edit of the model: its edits stay, and those of facts that "
            "are edited again are replaced."
        ),
    ] = None,
    generated: Annotated[
        bool,
        typer.Option(
            "--generated",
            help="Score too what the model writes by itself, greedily and up to its own stop: "
            "exact match and containment of the new object, with its chat template if it has one.",
        ),
    ] = False,
) -> None:
    """Writes facts into a model, and measures what that did.

    Without a model: factlm, the small one that comes with kis_jax, with its facts and its corpus.

    The output folder is a model in HuggingFace layout, with ledger.safetensors (what kis undo
    takes back), adapter/ (the same edit for peft) and edit.json (metrics before and after). It
    appears at once; the same command again replaces it.
    """
    from kis_jax.checkpoints.edited_directory import check_other, check_writable
    from kis_jax.checkpoints.loading import load_model
    from kis_jax.cli import console
    from kis_jax.cli.first_pilot import pilot_first
    from kis_jax.core.editing.recipes import recipe
    from kis_jax.data.facts import WORLD
    from kis_jax.edit import console as edit_console
    from kis_jax.edit.inputs import EditRequest, edit_moments, open_edit
    from kis_jax.edit.run import edit_model
    from kis_jax.passes.own_text import SELF

    if model == NAME:
        corpus = corpus or (NAME if second_moments is None else None)
    if corpus is None and second_moments is None:
        corpus = SELF
    facts = facts or (NAME if model == NAME else WORLD)
    check_writable(out)
    request = EditRequest(
        model,
        facts,
        recipe(method).name,
        second_moments or out.with_name(f"{out.resolve().name}-second-moments"),
        corpus,
        layers=layer,
        num_facts=num_facts,
        num_documents=num_documents,
        document_length=document_length,
        ridge=ridge,
        inverse=inverse,
        original_keys=original_keys,
        at_most_damage=at_most_damage,
        settings=settings,
        changes=tuple(changes or ()),
        position=position,
        strict=strict,
        after=after,
        generated=generated,
    )
    inputs = open_edit(request)
    check_other(out, inputs.directory)
    loaded = load_model(inputs.directory)
    if inputs.corpus is None:
        moments, identity = edit_moments(inputs, loaded)
    else:
        with console.corpus_progress(inputs.corpus.num_documents or num_documents) as on_batch:
            moments, identity = edit_moments(inputs, loaded, on_batch=on_batch)
    if pilot_first(
        inputs, loaded, moments, inputs.facts, request, bound=layer is not None or after is not None
    ):
        inputs = open_edit(request)
    with edit_console.fact_progress(len(inputs.facts)) as on_fact:
        record = edit_model(
            *(inputs, loaded, moments, identity, out),
            on_fact=on_fact,
            on_forecast=edit_console.print_forecast,
        )
    edit_console.print_edit(record, out)
