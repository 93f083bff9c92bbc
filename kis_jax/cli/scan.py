"""`kis scan`: the superposition of facts at every layer of a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from kis_jax.factlm import NAME


def scan(
    model: Annotated[
        str, typer.Argument(help="A local directory in HuggingFace layout, or a hub name.")
    ] = NAME,
    facts: Annotated[
        str | None,
        typer.Option(help='A CounterFact-layout JSON file, or "counterfact" from the hub.'),
    ] = None,
    corpus: Annotated[
        str | None,
        typer.Option(
            help="Text for the second moment: .txt (a document a line), .jsonl, .parquet, a "
            'folder of these, a hub name, or "wikipedia".'
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("kis-scan"),
    num_facts: Annotated[int, typer.Option(help="Take the first so many facts.")] = 128,
    num_documents: Annotated[
        int, typer.Option(help="Take at most so many documents, from the start.")
    ] = 100_000,
    document_length: Annotated[
        int | None,
        typer.Option(help="Cut documents at so many tokens. [default: the context, at most 4096]"),
    ] = None,
    layers: Annotated[str, typer.Option(help="Layers to report: all, 0,3 or 0:4.")] = "all",
    position: Annotated[
        Literal["subject_last", "subject_first", "last"],
        typer.Option(help="The token whose key stands for the fact."),
    ] = "subject_last",
    ridge: Annotated[
        float, typer.Option(help="Added to the diagonal of every second moment.")
    ] = 0.0,
    dtype: Annotated[
        Literal["float32", "bfloat16"], typer.Option(help="Of the forward pass.")
    ] = "float32",
) -> None:
    """Measures how far an edit of one fact would also move the others, at every layer.

    Without a model: factlm, the small one that comes with kis_jax, with its facts and its corpus.

    Writes scan.json, layer_000.npz and so on, figures/ and report.html into the output folder;
    and second_moments/, which the same command takes up again if it was interrupted.
    """
    from kis_jax import report
    from kis_jax.checkpoints.loading import load_model
    from kis_jax.cli import console
    from kis_jax.scale.inputs import ScanRequest, open_inputs
    from kis_jax.scale.scan import measure_second_moments, scan_layers, scan_record

    if model == NAME:
        facts, corpus = facts or NAME, corpus or NAME
    if facts is None or corpus is None:
        raise ValueError(
            "--facts, --corpus: both are needed with a model; name files, or for example "
            "--facts counterfact --corpus wikipedia"
        )
    inputs = open_inputs(
        ScanRequest(
            model,
            facts,
            corpus,
            num_facts=num_facts,
            num_documents=num_documents,
            layers=layers,
            position=position,
            ridge=ridge,
            dtype=dtype,
            document_length=document_length,
        )
    )
    report.check_directory(out, inputs.identity)
    loaded = load_model(inputs.directory, dtype=dtype)
    out.mkdir(parents=True, exist_ok=True)
    report.clear_leftovers(out)
    with console.corpus_progress(inputs.corpus.num_documents or num_documents) as on_batch:
        moments = measure_second_moments(inputs, loaded, out / "second_moments", on_batch=on_batch)
    statistics = []
    for layer, result in zip(inputs.layers, scan_layers(inputs, loaded, moments), strict=True):
        report.write_layer(out, layer, result.arrays)
        statistics.append(result.statistics)
    record = scan_record(inputs, loaded, moments, statistics)
    report.write_record(out, record)
    console.print_layers(record["layers"])
    console.print_done(report.write_report(out))
