"""Edits that last, in a table: `python -m scripts.lasting_table table life/lifelong.json`.

`facts` writes the facts for such a run, those that a model knows and its pilot did not use, with a
few prompts each; two files of them, of which one serves to choose a method and the other to try it.
`table` prints in Markdown what a `kis lifelong` found at its last checkpoint, with where each
method's collapse was foreseen and where it came; `bound`, what no linear map in the layer can keep.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from kis_jax import load
from kis_jax.checkpoints.loading import load_model
from kis_jax.data.facts import Fact
from kis_jax.data.facts_writing import writing_facts
from kis_jax.factlm import NAME
from kis_jax.lifelong.lifetimes import MOVED, crossing
from kis_jax.models.memory import memory_kernel
from kis_jax.passes.inputs import ScanRequest, open_inputs
from scripts.settings_table import _known_facts, _pilot

_PROMPTS = {"paraphrase_prompts": 2, "neighborhood_prompts": 3}
_FEW = 30  # facts, below which a score tells of how many it is
_SCORES = ("efficacy", "paraphrase", "neighborhood", "retention")

app = typer.Typer()


@app.command()
def facts(
    model: Annotated[str, typer.Argument(help="A directory.")],
    out: Annotated[list[Path], typer.Argument(help="Files, one after another filled.")],
    sources: Annotated[str, typer.Option(help="Of facts, taken in turn.")] = "world",
    num_facts: Annotated[int, typer.Option(help="In each file; in the last the rest.")] = 400,
) -> None:
    """Writes known facts to files, none in two."""
    inputs = open_inputs(ScanRequest(model, "world", "self", layers="all"))
    loaded, of_model = load_model(inputs.directory), inputs.fingerprints["model"]
    found = _known_facts(inputs, loaded, sources.split(","), _pilot(of_model), 10_000)
    for place, path in enumerate(out):
        start = place * num_facts
        part = found[start:] if path is out[-1] else found[start : start + num_facts]
        with writing_facts(path) as keep:
            for fact in part:
                keep(_shortened(fact))
        typer.echo(f"{path}: {len(part)} facts")


def _shortened(fact: Fact) -> Fact:
    """With no more prompts than are scored of it."""
    changes = {name: getattr(fact, name)[:most] for name, most in _PROMPTS.items()}
    for name in ("neighborhood_targets", "neighborhood_aliases"):
        changes[name] = getattr(fact, name)[: _PROMPTS["neighborhood_prompts"]]
    return dataclasses.replace(fact, **changes)


@app.command()
def table(
    runs: Annotated[list[Path], typer.Argument(help="`lifelong.json` of each.")],
    edits: Annotated[int | None, typer.Option(help="The checkpoint. [default: the last]")] = None,
) -> None:
    """Prints the methods of runs side by side, a row each."""
    typer.echo(f"| method | {' | '.join(_SCORES)} | perplexity | foreseen | collapse |")
    typer.echo(f"| --- |{(len(_SCORES) + 3) * ' ---: |'}")
    for path in runs:
        run = json.loads(path.read_text())
        before = run["methods"][0]["checkpoints"][-1]["unedited"]["neighborhood"]
        typer.echo(f"| unedited | - | - | {before:.2f} | - | 1.00 | - | - |")
        for method in run["methods"]:
            typer.echo(f"| {' | '.join(cells(method, run['unedited']['perplexity'], edits))} |")


def cells(method: Mapping[str, Any], perplexity: float, edits: int | None = None) -> list[str]:
    """Of a row: scores with intervals, perplexity in those of the unedited model, and collapse."""
    points = method["checkpoints"]
    point = points[-1] if edits is None else next(p for p in points if p["edits"] == edits)
    after = point["perplexity"]
    collapse = method["collapse"]
    told = "none"
    if collapse is not None:
        told = f"{collapse['edits']} ({', '.join(sign['metric'] for sign in collapse['signs'])})"
    return [
        f"`{method['method']}`",
        *(_with_interval(point["metrics"][name]) for name in _SCORES),
        "not finite" if after is None else f"{after / perplexity:.3g}",
        _foreseen(points),
        told,
    ]


def _with_interval(found: Mapping[str, Any]) -> str:
    if found["mean"] is None:
        return "-"
    told = "{mean:.2f} ({low:.2f} to {high:.2f})".format(**found)
    return told if found["count"] >= _FEW else f"{told} of {found['count']}"


def _foreseen(points: list[dict[str, Any]]) -> str:
    """Edits at which edited values are foreseen to have lost half of what was asked of them."""
    values = [point["interference"].get("edited", {}).get("predicted") for point in points]
    if all(value is None for value in values):
        return "-"
    found = crossing([point["edits"] for point in points], values, MOVED)
    return "none" if found is None else f"{found:.0f}"


@app.command()
def bound(
    run: Annotated[Path, typer.Argument(help="Folder of a `kis lifelong`.")],
    model: Annotated[str, typer.Option(help="That it edited.")] = NAME,
    method: Annotated[str, typer.Option(help="Whose keys and values.")] = "batch",
) -> None:
    """Prints what least squares leave of values, with no weight of text: linear maps' limit."""
    layer = json.loads((run / "progress" / "identity.json").read_text())["layer"]
    loaded, _ = load(model)
    with np.load(run / "progress" / f"{method}.npz") as state:
        keys, values = state["keys"], state["values"]
        steps = [point["edits"] for point in json.loads(str(state["about"]))["checkpoints"]]
    asked = values - keys @ np.asarray(memory_kernel(loaded, layer), np.float64)
    for edits in steps:
        given, wanted = keys[:edits], asked[:edits]
        rest = given @ np.linalg.lstsq(given, wanted)[0] - wanted
        lost = np.linalg.norm(rest, axis=1) / np.linalg.norm(wanted, axis=1)
        typer.echo(f"{edits} edits in {keys.shape[1]} dimensions: {lost.mean():.3f} lost")


if __name__ == "__main__":
    app()
