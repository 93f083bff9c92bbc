"""The notebook of the docs runs, and its results show themselves."""

import ast
import json
from pathlib import Path

NOTEBOOK = Path(__file__).parent.parent / "docs" / "atlas.ipynb"


def test_every_cell_runs_and_results_show_themselves(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    names, shown = {}, []
    for cell in cells:
        if cell["cell_type"] != "code":
            continue
        assert not cell["outputs"], "kept without outputs, which would go stale"
        body = ast.parse("".join(cell["source"])).body
        last = body.pop() if isinstance(body[-1], ast.Expr) else None
        exec(compile(ast.Module(body, []), NOTEBOOK.name, "exec"), names)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), NOTEBOOK.name, "eval"), names)
            shown += [value._repr_html_()] if value is not None else []
    assert len(shown) == 2 and shown[0] == shown[1]
    assert "24 facts at 2 layers" in shown[0] and "data:image/png" in shown[0]
    assert capsys.readouterr().out.startswith("an edit of ")
    assert (tmp_path / "notebook-scan" / "report.html").is_file()
