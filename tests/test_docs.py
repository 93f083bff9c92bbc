"""What README and docs show is true: programs run, commands parse, and what they name exists."""

import dataclasses
import importlib
import re
import shlex
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import typer

import kis_jax as kis
from kis_jax.cli import app, main

ROOT = Path(__file__).parent.parent
DOCS = sorted((ROOT / "docs").rglob("*.md"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS]
TEST_SOURCES = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))


def name_of(page):
    return str(page.relative_to(ROOT))


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block of a page, and the line that it starts in."""

    language: str
    text: str
    line: int


def blocks(page):
    text = page.read_text()
    return [
        Block(found[1], found[2], text[: found.start(2)].count("\n"))
        for found in re.finditer(r"^```(\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    ]


def prose(page):
    """The page without its fenced blocks."""
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def commands(page):
    """Command lines in blocks, fenced or indented, as written but for their line breaks."""
    fenced = "\n".join(block.text for block in blocks(page) if block.language != "python")
    indented = "\n".join(re.findall(r"^ {4}(.*\S)$", prose(page), re.MULTILINE))
    lines = re.sub(r"\\\n\s*", "", f"{fenced}\n{indented}").splitlines()
    return [line.strip() for line in lines]


def command_of(words):
    """The command that the first words name; the others are left in the list."""
    found = typer.main.get_command(app)
    while words and (within := getattr(found, "commands", None)):
        assert words[0] in within, f"kis has no command {words[0]!r}"
        found = within[words.pop(0)]
    return found


RUN = [
    page
    for page in (ROOT / "README.md", *DOCS)
    if any(block.language in ("python", "sh") for block in blocks(page))
]

QUICK = "quickstart.md"


@pytest.mark.parametrize(
    "page",
    [pytest.param(p, marks=() if p.name == QUICK else pytest.mark.slow) for p in RUN],
    ids=name_of,
)
def test_programs_and_commands_run_in_their_order(page, tmp_path, monkeypatch, capsys):
    """Python builds on the blocks before it; lines of `sh` run as they stand, in an empty folder.

    A block marked `text` is what the block before it prints. Both run with jax as its users have
    it, which promotes dtypes; optax asks for that.
    """
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__main__"}
    for block in blocks(page):
        if block.language == "python":
            program = compile("\n" * block.line + block.text, str(page), "exec")
            with jax.numpy_dtype_promotion("standard"):
                exec(program, names)
            printed = capsys.readouterr().out
            assert "nan" not in printed.lower(), f"line {block.line}"
        elif block.language == "text":
            assert_output(printed, block.text)
        elif block.language == "sh":
            for line in re.sub(r"\\\n\s*", "", block.text).splitlines():
                run(line, monkeypatch)
            printed = capsys.readouterr().out


def assert_output(printed, shown):
    """The same words, and numbers that agree to what is shown; lines of tables are left out."""
    number = r"-?\d+\.\d*"
    printed, shown = (re.sub("[\u2500-\u257f]", " ", text) for text in (printed, shown))
    found, told = (re.findall(number, text) for text in (printed, shown))
    np.testing.assert_allclose(np.array(found, float), np.array(told, float), atol=0.011)
    words = [re.sub(number, "", text).split() for text in (printed, shown)]
    assert words[0] == words[1]


def run(line, monkeypatch):
    monkeypatch.setattr(sys, "argv", shlex.split(line, comments=True))
    with jax.numpy_dtype_promotion("standard"), pytest.raises(SystemExit) as ended:
        main()
    allowed = (0, 1) if line.startswith("kis plan") else (0,)  # 1: it has found collisions
    assert (ended.value.code or 0) in allowed, line


def test_the_page_on_composition_has_programs_that_stand_alone():
    """Each imports what it uses: a name of another block would be an error for who copies one."""
    for block in blocks(ROOT / "docs" / "compose.md"):
        if block.language != "python":
            continue
        program = compile(block.text, "compose.md", "exec")
        made = set(re.findall(r"^(?:from \S+ )?import (.+)$", block.text, re.MULTILINE))
        imported = {name.split(" as ")[-1].strip() for line in made for name in line.split(",")}
        modules = {"jax", "jnp", "kis", "optax", "nnx", "factlm", "Path", "tempfile"}
        assert modules & set(program.co_names) <= imported, block.line
        assert "import kis_jax as kis" in block.text, block.line


def test_readme_has_pictures_and_targets_that_exist():
    readme = (ROOT / "README.md").read_text()
    for path in re.findall(r"\]\((?!http)([^)]+)\)", readme):
        assert (ROOT / path).exists(), path
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", readme, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_line_is_one_that_kis_takes(page):
    for line in commands(page):
        if line.startswith("kis "):
            words = shlex.split(re.sub(r"[\[\]]|\.\.\.", " ", line), comments=True)[1:]
            command_of(words).make_context("kis", words)  # parses all, and runs nothing


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_in_a_sentence_has_the_options_it_is_said_to_have(page):
    for found in re.findall(r"`kis (\w[^`]*)`", prose(page)):
        words = re.sub(r"[\[\]]|\.\.\.", " ", found).split()
        options = {option for parameter in command_of(words).params for option in parameter.opts}
        assert set(filter(lambda word: word.startswith("--"), words)) <= options, found


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_scripts_and_benchmarks_have_the_options_they_are_given(page):
    text = "\n".join([*commands(page), *re.findall(r"`(python [^`]+)`", prose(page))])
    for module, path, options in re.findall(r"python (?:-m ([\w.]+)|(\S+\.py))(.*)", text):
        source = ROOT / (path or module.replace(".", "/") + ".py")
        source = source if source.is_file() else source.with_suffix("") / "__main__.py"
        code = source.read_text().replace("_", "-")
        for option in re.findall(r"--([a-z][a-z-]*)", options):
            assert option in code, f"{source}: {option}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_files_and_tests_that_are_named_exist(page):
    text = page.read_text()
    for path in re.findall(
        r"`((?:kis_jax|tests|scripts|benchmarks|docs)/[\w/.]+)(?:::\w+)?`", text
    ):
        assert (ROOT / path).exists(), path
    for path, name in re.findall(r"(tests/[\w/]+\.py)::(\w+)", text):
        assert f"def {name}(" in (ROOT / path).read_text(), name
    for name in re.findall(r"`(?:::)?(test_\w+)`", text):
        assert f"def {name}(" in TEST_SOURCES, name


def documented():
    """What the pages of the API show, by the last part of its name."""
    found = {}
    for page in (ROOT / "docs" / "api").glob("*.md"):
        for path in re.findall(r"^::: (\S+)$", page.read_text(), re.MULTILINE):
            module, _, name = path.rpartition(".")
            assert name not in found, f"{name} is shown twice"
            found[name] = getattr(importlib.import_module(module), name)
    return found


def test_the_api_shows_every_public_name():
    shown = documented()
    for name in kis.__all__:
        assert shown.get(name) is getattr(kis, name), f"docs/api: {name} is not shown"
