"""Options that mean the same in several commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from kis_jax.factlm import NAME

Model = Annotated[
    str, typer.Argument(help="A local directory in HuggingFace layout, or a hub name.")
]
EditedFacts = Annotated[
    str | None,
    typer.Option(
        help='A file of facts (docs/facts.md has the layouts), "world", or "counterfact" from the '
        "hub. [default: world]"
    ),
]
EditPosition = Annotated[
    Literal["subject_last", "last"] | None,
    typer.Option(
        help="The token whose key stands for the fact; last, of the prompt, for facts without a "
        "subject. [default: that of the settings for the family]"
    ),
]
Settings = Annotated[
    str,
    typer.Option(
        help="Where and how strongly to edit: auto (what kis tune found for the model, else a "
        "pilot of some minutes), rule, published, or a file; kis settings shows them."
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="One of the settings, such as target.steps=40; may be given several times.",
    ),
]
Strict = Annotated[
    bool,
    typer.Option("--strict", help="Refuse a file of facts of which a record cannot be read."),
]
Corpus = Annotated[
    str | None,
    typer.Option(
        help="Text for the second moment: .txt (a document a line), .jsonl, .parquet, a "
        'folder of these, a hub name, "wikipedia", or "self", which the model writes. [default: '
        "self]"
    ),
]
NumFacts = Annotated[int, typer.Option(help="Take the first so many facts.")]
NumDocuments = Annotated[int, typer.Option(help="Take at most so many documents, from the start.")]
DefaultDocuments = Annotated[
    int | None,
    typer.Option(
        help="Take at most so many documents, from the start. [default: 100000; of text that the "
        "model writes, 32 tokens for each dimension of its keys]"
    ),
]
DocumentLength = Annotated[
    int | None,
    typer.Option(help="Cut documents at so many tokens. [default: the context, at most 4096]"),
]
SecondMoments = Annotated[
    Path | None,
    typer.Option(
        help="Folder of a scan, or of second moments, of the same documents; measured and "
        "kept there if it has none. [default: the output folder]"
    ),
]
Ridge = Annotated[float, typer.Option(help="Added to the diagonal of the second moment.")]
Inverse = Annotated[
    Literal["auto", "cholesky", "pseudo"],
    typer.Option(
        help="How the second moment is inverted. auto: Cholesky's factor, without the neurons that "
        "never fired; cholesky: it must be definite; pseudo: the pseudo-inverse, for any."
    ),
]
Dtype = Annotated[Literal["float32", "bfloat16"], typer.Option(help="Of the forward pass.")]
ModelAxis = Annotated[
    int | None,
    typer.Option(
        help="Use all devices: so many share one copy of the model, each such group runs "
        "texts of its own. [default: the first device; on many hosts 1]"
    ),
]
Distributed = Annotated[
    bool,
    typer.Option(
        "--distributed",
        help="Run the same command on every host of a TPU pod; seen by itself where a launcher "
        "tells of the others, as Slurm, Open MPI and GKE do.",
    ),
]
Coordinator = Annotated[
    str | None, typer.Option(help="HOST:PORT of host 0, where no cluster tells it.")
]
NumHosts = Annotated[
    int | None,
    typer.Option(help="With --coordinator: how many. 1: this process alone, whatever started it."),
]
WaitForHosts = Annotated[
    float, typer.Option(help="Seconds that hosts wait for one another at the start.")
]
Host = Annotated[int | None, typer.Option(help="With --coordinator: which is this one.")]


def facts_and_corpus(model: str, facts: str | None, corpus: str | None) -> tuple[str, str]:
    """What was named, or what comes with the embedded model.

    Of another model the facts of the world, and text of its own.

    Args:
      model: its name.
      facts: as named.
      corpus: as named.
    """
    from kis_jax.data.facts import WORLD

    if model == NAME:
        return facts or NAME, corpus or NAME
    if corpus is None:
        from kis_jax.passes.own_text import SELF

        corpus = SELF
    return facts or WORLD, corpus
