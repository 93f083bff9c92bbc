"""What the README shows is true: its Python runs, its pictures exist. Commands: test_docs.py."""

import re
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_the_python_examples_run(capsys):
    scan, edit = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (shown,) = re.findall(r"```\n(\[\[.*?)```", README, re.DOTALL)
    names: dict = {}
    exec(compile(scan, "README.md", "exec"), names)
    found, told = (
        np.array(re.findall(r"-?\d+\.\d*", text), float)
        for text in (capsys.readouterr().out, shown)
    )
    np.testing.assert_allclose(found, told, atol=0.011, err_msg="what README shows")
    exec(compile(edit, "README.md", "exec"), names)
    assert capsys.readouterr().out == "[1. 1. 1.]\n"


def test_its_pictures_and_targets_exist():
    for path in re.findall(r"\]\((?!http)([^)]+)\)", README):
        assert (ROOT / path).exists(), path
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
