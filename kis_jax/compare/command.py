"""`kis compare`: finished scans of several models, side by side and beside their controls."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kis_jax.compare.scans import ComparedScan


def compare(
    runs: Annotated[
        list[str] | None,
        typer.Argument(help="Folders of finished scans. None: draw again what --out holds."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("kis-compare"),
    depth: Annotated[
        float,
        typer.Option(
            help="Relative depth, 0 to 1, of the layer of each model whose P is drawn and whose "
            "pairs are compared."
        ),
    ] = 0.5,
) -> None:
    """Compares scans of the same facts: kurtosis by depth and size, with what explains it.

    Scan each model first, with the same --facts and --num-facts: kis scan MODEL --out FOLDER.

    Writes compare.json, which holds all that is drawn, figures/ and compare.html.
    """
    from kis_jax.compare import console as compare_console
    from kis_jax.compare.comparison import compare_scans
    from kis_jax.compare.page import write_compare_report
    from kis_jax.compare.record import check_compare_directory, write_compare

    if runs:
        check_compare_directory(out)
        write_compare(out, compare_scans(_opened(runs), depth=depth))
    elif not (out / "compare.json").exists():
        raise ValueError(
            "runs: expected folders of finished scans, found none, and no compare.json in "
            f"{out} to be drawn again; run kis scan for each model, and name their folders"
        )
    page = write_compare_report(out)
    compare_console.print_comparison(out)
    print(f"report: {page}")


def _opened(runs: Sequence[str]) -> list[ComparedScan]:
    """The scans, read and checked; the models' names tell them apart, or else their folders."""
    from kis_jax.compare.scans import ComparedScan
    from kis_jax.report.scan_files import read_scan
    from kis_jax.report.words import title

    folders = [_folder(run) for run in runs]
    scans = [read_scan(folder) for folder in folders]
    labels = [title(scan.model) for scan in scans]
    if len(set(labels)) < len(labels):
        labels = [folder.resolve().name for folder in folders]
    if len(set(labels)) < len(labels):
        labels = [str(folder) for folder in folders]
    return [
        ComparedScan(
            label,
            str(folder),
            scan.record,
            lambda layer, scan=scan: scan.matrices(layer)["superposition"],
        )
        for label, folder, scan in zip(labels, folders, scans, strict=True)
    ]


def _folder(run: str) -> Path:
    """The folder of a scan, of its `scan.json`, or an error that says how to come by one."""
    folder = Path(run)
    if folder.name == "scan.json":
        folder = folder.parent
    if not (folder / "scan.json").is_file():
        what = "a model" if (folder / "config.json").is_file() else "no scan.json"
        line = shlex.join(["kis", "scan", run, "--facts", "F", "--corpus", "C", "--out", "FOLDER"])
        raise ValueError(
            f"runs: expected the folder of a finished scan, found {what} in {run!r}; scan a model "
            f"first, the same facts for all: {line}"
        )
    return folder
