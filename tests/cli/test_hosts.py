"""Whatever two hosts were asked differently, they find out before they compute."""

import contextlib
import dataclasses

import pytest
import typer
import typer.exceptions

from kis_jax import factlm
from kis_jax.cli import app
from kis_jax.cli.hosts import asked
from kis_jax.passes.hosts import opening
from kis_jax.passes.hosts.opening import open_together
from kis_jax.passes.inputs import ScanRequest
from tests.passes.fake_board import agree_on

COMMANDS = ("scan", "stats collect", "edit", "lifelong", "mcqa train", "mcqa eval")
# What hosts compare by contents, or have for themselves.
NOT_ASKED = {"model", "facts", "corpus", "host", "coordinator", "distributed", "local_devices"}


def found_in(command, *words):
    """What a host that was started so says of its request; of options alone, nothing is run."""
    group = typer.main.get_command(app)
    for word in command.split():
        group = group.commands[word]
    return asked(group.make_context(f"kis {command}", ["model", *words]))


def asked_with(command, parameter):
    """What a host says that was given this one option, in whatever form the option takes."""
    for value in (
        [],
        ["7"],
        ["another"],
        ["last"],
        ["bfloat16"],
        ["batch"],
        ["recomputed"],
        ["pseudo"],
    ):
        names = parameter.secondary_opts if parameter.default is True else parameter.opts
        words = value if parameter.param_type_name == "argument" else [max(names, key=len), *value]
        with contextlib.suppress(typer.exceptions.TyperException):
            return found_in(command, *words)
    raise AssertionError(f"no value that {parameter.name} takes")


def options():
    group = typer.main.get_command(app)
    for name in COMMANDS:
        command = group
        for word in name.split():
            command = command.commands[word]
        for parameter in command.params:
            if parameter.name not in NOT_ASKED | {"help"}:
                yield pytest.param(name, parameter, id=f"{name} {parameter.name}")


@pytest.mark.parametrize(("command", "parameter"), list(options()))
def test_each_option_of_each_command_is_compared(command, parameter):
    """The words are parsed as a user's are; hosts that differ in one option name it."""
    here, there = found_in(command), asked_with(command, parameter)
    line, same = agree_on("request", here, there)
    option = max(parameter.opts, key=len)
    assert line == same and line.startswith(f"{option}: expected the same on every host, found")
    assert "differ as well" not in line
    assert agree_on("request", there, asked_with(command, parameter)) == [None, None]


def test_commands_are_compared():
    line, _ = agree_on("request", found_in("scan"), found_in("stats collect"))
    assert line.startswith("command: ") and "kis scan on host 0 and kis stats collect on" in line


@pytest.fixture
def inputs_of(monkeypatch, tmp_path):
    """What a host finds in the files that a request names."""

    def found(**changed):
        request = ScanRequest(factlm.NAME, factlm.NAME, factlm.NAME, num_facts=3, num_documents=20)
        said = {}
        with monkeypatch.context() as patch:
            patch.setattr(opening, "agree", lambda subject, state, seconds: said.update(state()))
            open_together(lambda: dataclasses.replace(request, **changed), controls=False)
        return said

    return found


def test_inputs_are_compared_by_contents_wherever_they_lie(inputs_of, tmp_path):
    lines = factlm.corpus_path().read_text().splitlines()[:20]
    text, copy, other = (tmp_path / f"{name}.txt" for name in ("text", "copy", "other"))
    text.write_text("\n".join(lines))
    copy.write_text("\n".join(lines))
    other.write_text("\n".join([*lines[:-1], lines[-1] + " more"]))
    here = inputs_of(corpus=str(text))
    assert agree_on("inputs", here, inputs_of(corpus=str(copy))) == [None, None]
    line, same = agree_on("inputs", here, inputs_of(corpus=str(other)))
    assert line == same and line.startswith("contents of --corpus: expected the same on every host")
    line, _ = agree_on("inputs", inputs_of(), inputs_of(num_facts=4))
    assert line.startswith("contents of --facts: ")
    assert {name for name in here if name.startswith("contents of MODEL")} == {
        "contents of MODEL, config.json and weights",
        "contents of MODEL, tokenizer",
    }


def test_an_input_that_one_host_lacks_ends_all_with_its_message(inputs_of):
    def without():
        with contextlib.nullcontext():
            return inputs_of(corpus="/nowhere/corpus.txt")

    line, same = agree_on("inputs", inputs_of(), without)
    assert line == same and line.startswith("host 1: corpus: expected") and "/nowhere" in line
