"""`kis stats`: second moments on their own: collected, merged, shown, brought in and out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kis_jax.cli import options
from kis_jax.cli.writing import WritesFolder
from kis_jax.factlm import NAME

app = typer.Typer(
    help="Collect, merge, show, import and export second moments, the matrices C of the field."
)

_Folder = Annotated[Path, typer.Argument(help="Folder of a scan, or of second moments.")]
_Out = Annotated[Path, typer.Option(help="Folder for the second moments.")]


@app.command(cls=WritesFolder)
def collect(
    context: typer.Context,
    model: options.Model = NAME,
    corpus: Annotated[
        str | None, typer.Option(help="Text, as for kis scan: files, a folder or a hub name.")
    ] = None,
    out: _Out = Path("kis-stats"),
    num_documents: options.NumDocuments = 100_000,
    document_length: options.DocumentLength = None,
    until: Annotated[
        float | None,
        typer.Option(help="End where every C is known to this relative error, such as 0.01."),
    ] = None,
    facts: Annotated[
        str | None,
        typer.Option(help="Watch the kurtosis of P between these facts as well; see kis scan."),
    ] = None,
    num_facts: options.NumFacts = 128,
    layers: Annotated[
        str, typer.Option(help="Layers at which kurtosis is watched: all, 0,3 or 0:4.")
    ] = "all",
    ridge: Annotated[
        float, typer.Option(help="Added to the diagonal of C where kurtosis is watched.")
    ] = 0.0,
    dtype: options.Dtype = "float32",
    stream: Annotated[
        bool, typer.Option("--stream", help="Read the model layer by layer; see kis scan.")
    ] = False,
    memory: Annotated[
        str | None, typer.Option(help="With --stream: the most memory to use, such as 3GB.")
    ] = None,
    save_every: Annotated[float, typer.Option(help="Seconds between two saves.")] = 300.0,
    model_axis: options.ModelAxis = None,
    distributed: options.Distributed = False,
    coordinator: options.Coordinator = None,
    num_hosts: options.NumHosts = None,
    host: options.Host = None,
    wait_for_hosts: options.WaitForHosts = 300.0,
) -> None:
    """Measures C at every layer over a corpus; a run that was interrupted goes on."""
    import jax

    from kis_jax.cli import console
    from kis_jax.cli.measuring import measured, opened
    from kis_jax.passes.inputs import ScanRequest
    from kis_jax.stats import console as stats_console
    from kis_jax.stats.run import open_stats

    def ask() -> ScanRequest:
        text = corpus or (NAME if model == NAME else None)
        if text is None:
            raise ValueError("--corpus: needed with a model, such as --corpus wikipedia")
        return ScanRequest(
            model,
            facts,
            text,
            num_facts=num_facts,
            num_documents=num_documents,
            layers=layers,
            ridge=ridge,
            dtype=dtype,
            document_length=document_length,
            until=until,
        )

    with opened(context, ask, out, stream=stream, memory=memory) as (inputs, mesh):
        how = {"stream": stream, "memory": memory, "save_every": save_every}
        measured(inputs, out, mesh, **how, watch_kurtosis=True)
        if jax.process_index() == 0:
            if not list(out.glob("hosts_*")):  # as the hosts saved them, if they are too large
                stats_console.print_stats(open_stats(out))
            console.print_folder(out)


@app.command()
def show(
    folder: _Folder,
    json: Annotated[bool, typer.Option("--json", help="As JSON on standard output.")] = False,
) -> None:
    """Shows second moments: of which run, over how many tokens, how well they are known."""
    from kis_jax.stats import console as stats_console
    from kis_jax.stats.run import open_stats

    stats = open_stats(folder)
    stats_console.print_stats_json(stats) if json else stats_console.print_stats(stats)


@app.command(cls=WritesFolder)
def merge(
    folders: Annotated[list[Path], typer.Argument(help="Folders of one model's second moments.")],
    out: _Out,
) -> None:
    """Adds up second moments of one model over different corpora."""
    from kis_jax.cli import console
    from kis_jax.stats import console as stats_console
    from kis_jax.stats.run import merge_stats, open_stats

    merged = merge_stats([open_stats(folder) for folder in folders], out)
    stats_console.print_stats(merged)
    console.print_folder(out)


@app.command(name="import", cls=WritesFolder)
def import_(
    files: Annotated[list[Path], typer.Argument(help="ROME's .npz files, one a layer.")],
    model: Annotated[str, typer.Option(help="Whose they are: a local directory or a hub name.")],
    out: _Out,
    layer: Annotated[
        int | None, typer.Option(help="Of a single file whose name does not tell its layer.")
    ] = None,
) -> None:
    """Takes over the second moments that ROME, MEMIT and their kin have cached."""
    from kis_jax.cli import console
    from kis_jax.stats import console as stats_console
    from kis_jax.stats.run import import_rome

    stats_console.print_stats(import_rome(files, model, out, layer=layer))
    console.print_folder(out)


@app.command()
def export(
    folder: _Folder,
    model: Annotated[str, typer.Option(help="Whose they are: a local directory or a hub name.")],
    out: Annotated[Path, typer.Option(help="Folder that ROME calls stats_dir.")],
    corpus: Annotated[
        str, typer.Option(help="The corpus, by the name that ROME asks for.")
    ] = "wikipedia",
    sample_size: Annotated[
        int, typer.Option(help="Documents, as many as ROME asks for: it takes no other file.")
    ] = 100_000,
) -> None:
    """Writes second moments where ROME, MEMIT and their kin look for their cache."""
    from kis_jax.stats.run import export_rome, open_stats

    for path in export_rome(open_stats(folder), model, out, corpus=corpus, sample_size=sample_size):
        print(path)
