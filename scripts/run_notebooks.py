"""Runs the notebooks of the documentation and saves what they print and draw.

    python -m scripts.run_notebooks [NAME ...]

Needs the extra `docs`. `tests/test_notebooks.py` runs the same cells and compares what they print.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).parent.parent / "docs" / "notebooks"


def run(path: Path) -> None:
    """Runs a notebook in an empty folder, and saves it with its outputs and nothing else new."""
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(notebook, resources={"metadata": {"path": folder}})
        client.execute(env=os.environ | {"TRANSFORMERS_VERBOSITY": "error"})
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        cell.metadata.clear()
        if cell.cell_type == "code":
            cell.outputs = [out for out in cell.outputs if out.get("name") != "stderr"]
    path.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8")


if __name__ == "__main__":
    for name in sys.argv[1:] or sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb")):
        print(name)
        run(NOTEBOOKS / f"{name}.ipynb")
