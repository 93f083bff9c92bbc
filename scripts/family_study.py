"""Trains a family of sizes, scans, compares and edits it: `python scripts/family_study.py`.

One world, one order of the texts, one rule for all sizes. Whatever is there is not done again, so
that the same command goes on where it was stopped, and `--only-draw` draws the committed figures
anew. What goes into the repository is written to docs/family; weights stay in --work.
"""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import matplotlib
import numpy as np
import typer

from kis_jax.cli.jobs import Job, in_own_process, run_job
from kis_jax.compare.comparison import compare_scans
from kis_jax.compare.evidence import layer_evidence
from kis_jax.compare.page import write_compare_report
from kis_jax.compare.record import write_compare
from kis_jax.compare.scans import ComparedScan
from kis_jax.lifelong.lifetime_figures import write_lifetime_figures, write_lifetimes
from kis_jax.lifelong.lifetimes import compare_lifetimes
from kis_jax.report.scan_files import Scan, read_scan

ROOT = Path(__file__).resolve().parent.parent
SHAPE = ("--num-layers", "4", "--epochs", "10", "--tokens-per-batch", "512")
# Of edits: half way up and at the prompt's last token, as was found to serve factlm. In these
# models, edits as GPT-2's published settings make them do not take.
LAYER = 2
POSITION = ("--position", "last", "--layers", str(LAYER))
METHOD = "sequential"
STEPS = "1,2,5,10,20,35,50,75,100,150,200"


def main(
    work: Annotated[Path, typer.Option(help="Folder for models and runs.")] = Path("out/family"),
    out: Annotated[Path, typer.Option(help="Folder for what is kept.")] = ROOT / "docs" / "family",
    widths: Annotated[str, typer.Option(help="Of the family.")] = "64,96,128,192,256",
    facts: Annotated[int, typer.Option(help="Of the world, for all sizes.")] = 400,
    worlds: Annotated[
        str | None,
        typer.Option(help="Also train the smallest width on so many facts each, and compare."),
    ] = None,
    only_draw: Annotated[
        bool, typer.Option("--only-draw", help="Draw from the JSON in --out, and run nothing.")
    ] = False,
) -> None:
    """Runs the study of docs/family.md."""
    if not only_draw:
        sizes = [int(width) for width in widths.split(",")]
        family = [_trained(work, width, facts) for width in sizes]
        _measure(family, work, out, "sizes")
        if worlds is not None:
            counts = sorted(int(count) for count in worlds.split(","))
            pressed = [_trained(work, min(sizes), count) for count in counts]
            named = zip(pressed, counts, strict=True)
            scans = [_scanned(model, pressed[0], f"{count}_facts") for model, count in named]
            _compare(scans, out / "capacity")
    for folder in sorted(path.parent for path in out.rglob("compare.json")):
        write_compare_report(folder)
    for folder in sorted(path.parent for path in out.rglob("lifetimes.json")):
        write_lifetime_figures(folder)
    for path in (*out.rglob("*.svg"), *out.rglob("compare.html")):
        path.unlink()  # what the PNGs show, at several times their size
    (out / "drawn_with.txt").write_text(f"matplotlib {matplotlib.__version__}\n")


def _trained(work: Path, width: int, facts: int) -> Path:
    """The folder of a trained size, `model/` with its facts and corpus."""
    folder = work / f"width_{width}_facts_{facts}"
    if not (folder / "model" / "training.json").exists():
        script = str(ROOT / "scripts" / "train_factlm.py")
        options = ["--size", str(width), "--facts", str(facts), *SHAPE, "--out", str(folder)]
        typer.echo(f"python scripts/train_factlm.py {' '.join(options)}")
        subprocess.run([sys.executable, script, *options], check=True)
    return folder


def _measure(family: Sequence[Path], work: Path, out: Path, name: str) -> None:
    """Scans all sizes, compares them, edits each, and keeps what they say together."""
    facts = family[0]
    scans = [_scanned(model, facts, model.name.partition("_facts")[0]) for model in family]
    _compare(scans, out / name)
    runs = []
    for model in family:
        where = model / "lifelong"
        words = ("lifelong", str(model / "model"), *_texts(facts), "--layer", str(LAYER))
        words += ("--steps", STEPS, "--method", METHOD, "--most-evaluated", "100")
        words += ("--num-others", "100")
        _run(Job((*words, "--out", str(where)), where / "report.html"))
        runs.append(json.loads((where / "lifelong.json").read_text()))
    records = [json.loads((scan / "scan.json").read_text()) for scan in scans]
    edited = [_scanned(model, facts, f"edited_{model.name}", *POSITION) for model in family]
    of_edits = [json.loads((scan / "scan.json").read_text()) for scan in edited]
    labels = [f"width {record['architecture']['width']}" for record in records]
    models = list(zip(labels, records, runs, strict=True))
    lives = compare_lifetimes(list(zip(labels, of_edits, runs, strict=True)), METHOD)
    write_lifetimes(out / name, lives)
    kept: dict[str, Any] = {
        label: {
            "training": json.loads((model / "model" / "training.json").read_text()),
            "token_count": record["token_count"],
            "layers": [
                {**_plain(layer), **_evidence(scan, layer["layer"], record["facts"])}
                for layer in record["layers"]
            ],
        }
        for model, scan, (label, record, _) in zip(family, scans, models, strict=True)
    }
    (out / name / "models.json").write_text(json.dumps(kept, indent=1) + "\n")


def _scanned(model: Path, facts: Path, name: str, *options: str) -> Path:
    """A scan of a model, in a folder of the name that it has in comparisons."""
    where = model / name
    words = ("scan", str(model / "model"), *_texts(facts), *options, "--out", str(where))
    _run(Job(words, where / "report.html"))
    return where


def _texts(folder: Path) -> tuple[str, ...]:
    return ("--facts", str(folder / "facts.json"), "--corpus", str(folder / "corpus.txt"))


def _compare(scans: Sequence[Path], out: Path) -> None:
    """As `kis compare` does it, but for short labels, the names of the folders."""
    opened = []
    for folder in scans:
        scan = read_scan(folder)
        found = functools.partial(_superposition, scan)
        label = folder.name.replace("_", " ")
        opened.append(ComparedScan(label, str(folder), scan.record, found))
    write_compare(out, compare_scans(opened))


def _superposition(scan: Scan, layer: int) -> np.ndarray:
    return scan.matrices(layer)["superposition"]


def _evidence(scan: Path, layer: int, facts: Sequence[dict[str, Any]]) -> dict[str, float]:
    with np.load(scan / f"layer_{layer:03d}.npz") as arrays:
        return layer_evidence(arrays, facts)


def _plain(layer: dict[str, Any]) -> dict[str, Any]:
    """The numbers of a layer, without what compare.json has of it already."""
    return {name: value for name, value in layer.items() if isinstance(value, int | float)}


def _run(job: Job) -> None:
    outcome = run_job(job, in_own_process, typer.echo)
    if outcome.failure is not None:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
