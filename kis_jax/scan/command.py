"""`kis scan`: the superposition of facts at every layer of a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypedDict, Unpack

import typer

from kis_jax.cli import options
from kis_jax.factlm import NAME

if TYPE_CHECKING:
    from jax.sharding import Mesh

    from kis_jax.passes.inputs import ScanInputs, ScanRequest


class ScanSettings(TypedDict, total=False):
    """Settings of a scan that have a default; see `ScanRequest`."""

    num_facts: int
    num_documents: int | None
    document_length: int | None
    layers: str
    position: Literal["subject_last", "subject_first", "last"]
    ridge: float
    inverse: Literal["auto", "cholesky", "pseudo"]
    shrinkage: bool
    dtype: str
    until: float | None
    reliability: float | None
    strict: bool


def scan(
    context: typer.Context,
    model: options.Model = NAME,
    facts: options.EditedFacts = None,
    corpus: options.Corpus = None,
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("kis-scan"),
    num_facts: options.NumFacts = 128,
    num_documents: options.DefaultDocuments = None,
    document_length: options.DocumentLength = None,
    layers: Annotated[str, typer.Option(help="Layers to report: all, 0,3 or 0:4.")] = "all",
    position: Annotated[
        Literal["subject_last", "subject_first", "last"],
        typer.Option(help="The token whose key stands for the fact."),
    ] = "subject_last",
    ridge: Annotated[
        float, typer.Option(help="Added to the diagonal of every second moment.")
    ] = 0.0,
    inverse: options.Inverse = "auto",
    shrinkage: Annotated[
        bool,
        typer.Option(
            "--shrinkage",
            help="Shrink every second moment towards its diagonal, by as much as its number of "
            "tokens asks for: for a small corpus.",
        ),
    ] = False,
    dtype: options.Dtype = "float32",
    until: Annotated[
        float | None,
        typer.Option(
            help="End the pass over the corpus where every C is known to this relative error, such "
            "as 0.01, and the kurtosis of P stays as well."
        ),
    ] = None,
    reliability: Annotated[
        float | None,
        typer.Option(
            help="End the pass over the corpus where P between the facts is estimated to "
            "correlate so with that of endless text, at every layer. [default: 0.98 where a model "
            "writes its text and neither --until nor --num-documents is given; else never]"
        ),
    ] = None,
    stream: Annotated[
        bool,
        typer.Option(
            "--stream", help="Read the model layer by layer, for one that is larger than memory."
        ),
    ] = False,
    memory: Annotated[
        str | None,
        typer.Option(
            help="With --stream: the most memory to use, such as 3GB. "
            "[default: three quarters of what there is]"
        ),
    ] = None,
    save_every: Annotated[
        float,
        typer.Option(help="Seconds between two saves; --stream saves after each layer."),
    ] = 300.0,
    strict: options.Strict = False,
    model_axis: options.ModelAxis = None,
    distributed: options.Distributed = False,
    coordinator: options.Coordinator = None,
    num_hosts: options.NumHosts = None,
    host: options.Host = None,
    wait_for_hosts: options.WaitForHosts = 300.0,
) -> None:
    """Measures how far an edit of one fact would also move the others, at every layer.

    Without a model: factlm, the small one that comes with kis_jax, with its facts and its corpus.

    Writes scan.json, layer_000.npz and so on, figures/ and report.html into the output folder;
    and second_moments/, which the same command takes up again if it was interrupted.
    """
    import jax

    from kis_jax.cli import console
    from kis_jax.cli.measuring import opened

    def ask() -> ScanRequest:
        return request_of(
            model,
            facts,
            corpus,
            endless=not stream,
            num_facts=num_facts,
            num_documents=num_documents,
            layers=layers,
            position=position,
            strict=strict,
            ridge=ridge,
            inverse=inverse,
            dtype=dtype,
            document_length=document_length,
            until=until,
            shrinkage=shrinkage,
            reliability=reliability,
        )

    with opened(context, ask, out, stream=stream, memory=memory, controls=True, mixtures=True) as (
        inputs,
        mesh,
    ):
        record, known = measure(
            inputs, out, mesh, stream=stream, memory=memory, save_every=save_every
        )
        if jax.process_index() == 0:
            console.print_layers(record["layers"])
            if known:
                print(console.known_in_words(known))
            console.print_done(out / "report.html")


def request_of(
    model: str,
    facts: str | None,
    corpus: str | None,
    *,
    endless: bool = True,
    **settings: Unpack[ScanSettings],
) -> ScanRequest:
    """What is asked for; text that a model writes has no end of its own, and is given one."""
    from kis_jax.passes.inputs import ScanRequest
    from kis_jax.passes.own_text import SELF

    edited, text = options.facts_and_corpus(model, facts, corpus)
    told = (settings.get(name) is not None for name in ("until", "num_documents"))
    ends = any(told) or settings.get("shrinkage", False)
    if text == SELF and endless and not ends:
        settings["reliability"] = settings.get("reliability") or 0.98
    return ScanRequest(model, edited, text, **settings)


def measure(
    inputs: ScanInputs,
    out: Path,
    mesh: Mesh | None = None,
    *,
    stream: bool = False,
    memory: str | None = None,
    save_every: float = 300.0,
) -> tuple[dict[str, Any], list[bool | None]]:
    """Measures and writes everything, on every host of a run alike.

    Args:
      inputs: open.
      out: folder for the results, that all hosts see.
      mesh: that shares the work; None for one device.
      stream: whether the model is read layer by layer.
      memory: the most to use then.
      save_every: seconds between two saves.

    Returns:
      What `scan.json` holds, and which facts the model knows.
    """
    import jax

    from kis_jax.cli.measuring import measured
    from kis_jax.passes.hosts.distributed import each
    from kis_jax.passes.store import MomentStore
    from kis_jax.scan.page import write_report
    from kis_jax.scan.record import check_directory, clear_leftovers, write_layer, write_record
    from kis_jax.scan.run import scan_layers_on_hosts, scan_record

    each(lambda: check_directory(out, inputs.identity))
    first = jax.process_index() == 0
    if first:
        out.mkdir(parents=True, exist_ok=True)
        clear_leftovers(out)
    directory = out / "second_moments"
    moments, keys, known = measured(
        inputs, directory, mesh, stream=stream, memory=memory, save_every=save_every
    )
    statistics = scan_layers_on_hosts(
        inputs, keys, moments, lambda layer, arrays: write_layer(out, layer, arrays)
    )
    record = scan_record(inputs, moments, statistics, MomentStore(directory, {}).looks, known)
    if first:
        write_record(out, record)
        write_report(out)
    each(lambda: None)  # no host leaves before the report is written
    return record, known
