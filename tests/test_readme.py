"""What the README shows is true: its Python runs, its commands and pictures exist."""

import re
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from kis_jax.cli import app

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_the_python_examples_run(capsys):
    scan, edits, facts = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names: dict = {}
    exec(compile(scan, "README.md", "exec"), names)
    printed = capsys.readouterr().out
    numbers = np.array(re.findall(r"-?\d+\.\d*", printed), float).reshape(2, 2)
    np.testing.assert_allclose(np.diag(numbers), 1, atol=1e-5)
    exec(compile(edits, "README.md", "exec"), names)
    assert float(capsys.readouterr().out) < 1e-5
    exec(compile(facts, "README.md", "exec"), names)
    assert capsys.readouterr().out == "[1. 1.]\n"


def test_its_pictures_and_targets_exist():
    for path in re.findall(r"\]\((?!http)([^)]+)\)", README):
        assert (ROOT / path).exists(), path
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


@pytest.mark.parametrize("command", ["scan", "plan", "edit", "undo", "lifelong"])
def test_every_option_it_names_is_one_of_the_command(command):
    (name,) = (group.name for group in app.registered_commands if group.name == command)
    known = CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "200"}).output
    lines = re.findall(rf"^kis {command} (.*)$", README, re.MULTILINE)
    assert lines
    for option in re.findall(r"--[a-z][a-z-]+", " ".join(lines)):
        assert option in known, option
