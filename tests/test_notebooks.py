"""The notebooks of the docs run, print what they show, and draw where they show a picture."""

import ast
import json
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import pytest

from tests.test_docs import assert_output

NOTEBOOKS = Path(__file__).parent.parent / "docs" / "notebooks"
NAMES = ("edit", "lifetime", "mesh", "penalty", "scan")


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_cell_gives_what_the_page_shows(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    drawn = []
    monkeypatch.setattr(plt, "show", lambda: drawn.append(plt.gcf().axes) or plt.close())
    names: dict = {}
    for cell in json.loads((NOTEBOOKS / f"{name}.ipynb").read_text())["cells"]:
        if cell["cell_type"] != "code":
            continue
        with jax.numpy_dtype_promotion("standard"):
            value = run("".join(cell["source"]), names)
        pieces = [piece for output in cell["outputs"] for piece in parts(output)]
        shown = dict(pieces)
        said = "".join(data for kind, data in pieces if kind == "stdout")
        assert_output(capsys.readouterr().out, said)
        if "text/html" in shown:
            assert value._repr_html_().count("<tr") == shown["text/html"].count("<tr") > 0
            assert "data:image/png" in value._repr_html_()
        elif "image/png" in shown:
            assert drawn.pop()
        elif value is not None:
            assert repr(value) == shown["text/plain"]
    assert not drawn


def test_every_notebook_is_run_and_has_its_outputs():
    assert {path.stem for path in NOTEBOOKS.glob("*.ipynb")} == {*NAMES}
    for path in NOTEBOOKS.glob("*.ipynb"):
        assert any(cell.get("outputs") for cell in json.loads(path.read_text())["cells"]), path


def run(source, names):
    """Runs a cell; gives the value of its last line, if that is an expression."""
    body = ast.parse(source).body
    last = body.pop() if isinstance(body[-1], ast.Expr) else None
    exec(compile(ast.Module(body, []), "cell", "exec"), names)
    return last and eval(compile(ast.Expression(last.value), "cell", "eval"), names)


def parts(output):
    """What an output holds, by kind."""
    if output["output_type"] == "stream":
        return [(output["name"], "".join(output["text"]))]
    return [(kind, "".join(data)) for kind, data in output["data"].items()]
