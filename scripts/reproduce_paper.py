"""The paper's models and figures: `python scripts/reproduce_paper.py --out out/paper`.

Scans every model with 128 facts and Wikipedia, and compares them, all together and by family. The
same command goes on where it was stopped; a model that cannot be had is told at the end. Set
HF_TOKEN for those that ask for a licence. Here, without a network or a large machine:
`python scripts/reproduce_paper.py --stand-ins out/stand-ins --out out/paper-stand-ins`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from kis_jax import factlm
from kis_jax.cli.jobs import Job, Outcome, Runner, in_own_process, in_this_process, run_job


@dataclasses.dataclass(frozen=True)
class PaperModel:
    """A model of the paper: its name on the hub, billions of parameters, and its layout."""

    hub: str
    series: str
    kind: str
    billions: float

    @property
    def folder(self) -> str:
        """The name without its owner."""
        return self.hub.split("/")[-1]


MODELS = (
    PaperModel("openai-community/gpt2", "gpt2", "gpt2", 0.12),
    PaperModel("openai-community/gpt2-medium", "gpt2", "gpt2", 0.35),
    PaperModel("openai-community/gpt2-large", "gpt2", "gpt2", 0.77),
    PaperModel("EleutherAI/gpt-j-6b", "gptj", "gptj", 6.1),
    PaperModel("EleutherAI/pythia-1b", "pythia", "gpt_neox", 1.0),
    PaperModel("EleutherAI/pythia-2.8b", "pythia", "gpt_neox", 2.8),
    PaperModel("EleutherAI/pythia-6.9b", "pythia", "gpt_neox", 6.9),
    PaperModel("meta-llama/Llama-2-7b-hf", "llama2", "llama", 6.7),
    PaperModel("meta-llama/Llama-2-13b-hf", "llama2", "llama", 13.0),
    PaperModel("meta-llama/Meta-Llama-3-8B", "llama3", "llama", 8.0),
    PaperModel("meta-llama/Llama-3.1-8B", "llama3", "llama", 8.0),
)
STAND_IN_FACTS, STAND_IN_DOCUMENTS = 32, 400


def main(
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("out/paper"),
    stand_ins: Annotated[
        Path | None,
        typer.Option(
            help="Run on small random models in the same layouts, made in this folder, with "
            "factlm's facts and text."
        ),
    ] = None,
    facts: Annotated[str, typer.Option(help="As for kis scan.")] = "counterfact",
    corpus: Annotated[str, typer.Option(help="As for kis scan.")] = "wikipedia",
    num_facts: Annotated[int, typer.Option(help="The first so many.")] = 128,
    num_documents: Annotated[int, typer.Option(help="At most so many.")] = 100_000,
    stream_above: Annotated[
        float,
        typer.Option(
            help="Models of more billions of parameters are read layer by layer, for they do "
            "not fit the memory in float32."
        ),
    ] = 10.0,
    edits: Annotated[
        str | None,
        typer.Option(
            help="Also edit, and measure after so many edits, such as 1,10,100,1000 (the paper's "
            "Appendix H); slow for large models, which must fit the memory."
        ),
    ] = None,
    only: Annotated[
        str | None, typer.Option(help="Only models whose names hold one of these, by commas.")
    ] = None,
) -> None:
    """Scans and compares the models of the paper; exit status 1 if some could not be had."""
    chosen = [m for m in MODELS if only is None or any(part in m.hub for part in only.split(","))]
    if not chosen:
        names = ", ".join(model.folder for model in MODELS)
        raise typer.BadParameter(f"--only: expected a part of one of {names}, found {only!r}")
    places = {model.hub: model.hub for model in chosen}
    runner = in_own_process
    if stand_ins is not None:
        places, runner = _write_stand_ins(chosen, stand_ins), in_this_process
        facts = corpus = factlm.NAME
        num_facts, num_documents = STAND_IN_FACTS, STAND_IN_DOCUMENTS
    common = ("--facts", facts, "--corpus", corpus, "--num-documents", str(num_documents))
    outcomes = []
    for model in chosen:
        where = out / "scans" / model.folder
        words = ["scan", places[model.hub], *common, "--num-facts", str(num_facts)]
        words += ["--stream"] if model.billions > stream_above and stand_ins is None else []
        job = Job((*words, "--out", str(where)), where / "report.html")
        outcomes.append(run_job(job, runner, typer.echo))
        if edits is not None and outcomes[-1].failure is None:
            where = out / "lifelong" / model.folder
            words = ["lifelong", places[model.hub], *common, "--steps", edits]
            job = Job((*words, "--out", str(where)), where / "report.html")
            outcomes.append(run_job(job, runner, typer.echo))
    scanned = [m for m in chosen if (out / "scans" / m.folder / "report.html").exists()]
    outcomes += _compare(scanned, out, runner)
    _finish(out, outcomes)


def _write_stand_ins(models: Sequence[PaperModel], directory: Path) -> dict[str, str]:
    """Small models, the larger ones of a series wider; few widths, so that little is compiled."""
    from kis_jax.factlm.stand_ins import write_stand_in

    places = {}
    for model in models:
        place = directory / model.folder
        smaller = [m for m in MODELS if m.series == model.series and m.billions < model.billions]
        if not (place / "tokenizer_config.json").exists():
            width = 32 + 16 * len(smaller)
            write_stand_in(place, model.kind, width=width, seed=MODELS.index(model))
        places[model.hub] = str(place)
    return places


def _compare(models: Sequence[PaperModel], out: Path, runner: Runner) -> list[Outcome]:
    """Compares all that were scanned, and those of each series that has two or more."""
    groups = {"all": list(models)}
    for series in dict.fromkeys(model.series for model in models):
        members = [model for model in models if model.series == series]
        if len(members) > 1:
            groups[series] = members
    outcomes = []
    for name, members in groups.items():
        if members:
            runs = [str(out / "scans" / model.folder) for model in members]
            # Named after its members: with a model more, it is another comparison.
            where = out / "compared" / f"{name}-of-{len(members)}"
            job = Job(("compare", *runs, "--out", str(where)), where / "compare.html")
            outcomes.append(run_job(job, runner, typer.echo))
    return outcomes


def _finish(out: Path, outcomes: Sequence[Outcome]) -> None:
    """Writes and prints what became of each command."""
    failed = [outcome for outcome in outcomes if outcome.failure is not None]
    record = [{"command": o.job.line, "failure": o.failure} for o in outcomes]
    out.mkdir(parents=True, exist_ok=True)
    (out / "commands.json").write_text(json.dumps(record, indent=2) + "\n")
    typer.echo(f"\n{len(outcomes) - len(failed)} of {len(outcomes)} commands are done")
    for outcome in failed:
        typer.echo(f"not done: {outcome.job.line}\n  {outcome.failure}")
    if failed:
        typer.echo("The same command tries these again, and repeats none of the others.")
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
