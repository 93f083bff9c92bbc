"""What hosts say to one another where there is one."""

import socket

import numpy as np
import pytest

from kis_jax.passes.dealing import gather_rows
from kis_jax.passes.hosts.distributed import (
    any_host,
    check_shared,
    each,
    from_first,
    share,
    together,
)


def test_one_host_agrees_with_itself(tmp_path):
    assert share({"a": [1, None]}) == [{"a": [1, None]}]
    assert from_first(lambda: 3) == 3 and together(lambda: "b") == ["b"]
    assert any_host(True) and not any_host(False)
    check_shared(tmp_path / "none")
    assert not (tmp_path / "none").exists()
    part = np.random.default_rng(0).normal(size=(5, 5))
    order = np.array([3, 1, 0, 2, 4])
    np.testing.assert_array_equal(gather_rows(part, [order])[order], part)


def test_an_error_keeps_its_kind_on_one_host():
    def fail():
        raise FileNotFoundError("no such file")

    with pytest.raises(FileNotFoundError):
        each(fail)


def test_a_folder_that_a_host_does_not_see_is_told_in_our_words(tmp_path, monkeypatch):
    """Process 0 writes on a disk of its own; here the folder is not even there."""
    from kis_jax.passes.hosts import distributed

    monkeypatch.setattr(distributed.jax, "process_count", lambda: 2)
    monkeypatch.setattr(distributed.jax, "process_index", lambda: 1)
    monkeypatch.setattr(distributed, "from_first", lambda compute: "name")
    monkeypatch.setattr(distributed, "share", lambda value: [None, value])
    with pytest.raises(ValueError, match="host 1: .*expected a folder that all hosts share"):
        check_shared(tmp_path / "none")


@pytest.mark.parametrize(
    ("error", "ours"),
    [
        (ValueError("UNKNOWN: Gloo AllGather failed: [pair.cc:538] Read error: reset"), False),
        (ValueError("--ridge: expected the same on every host, found 0 and 1"), True),
        (ValueError("layer 3: expected a positive definite matrix"), True),
    ],
)
def test_a_collective_that_lost_a_host_is_told_in_our_words(error, ours, monkeypatch, capsys):
    """jax raises it as an error of values or of its runtime; what is ours passes as it is."""
    from kis_jax.passes.hosts import distributed

    def end(status):
        raise SystemExit(status)

    monkeypatch.setattr(distributed.jax, "process_count", lambda: 2)
    monkeypatch.setattr(distributed.jax, "process_index", lambda: 1)
    monkeypatch.setattr(distributed.os, "_exit", end)
    with pytest.raises(ValueError if ours else SystemExit):
        with distributed.ends_with_the_others():
            raise error
    told = capsys.readouterr().err
    assert ("expected to compute together with the other hosts, found one gone" in told) != ours


def test_where_the_devices_are_is_told_before_the_work(monkeypatch, capsys):
    """And how many GPUs of the machine no process of the run uses."""
    from kis_jax.passes.hosts import opening

    opening.mesh_of_all(2)
    told = capsys.readouterr().err
    assert told.startswith("devices: 1 processes x 8 x cpu, 4 copies of the model on 2 each; ")
    assert told.endswith(f"processes on {socket.gethostname()} (1)\n")
    monkeypatch.setattr(opening, "_gpus_here", lambda: 12)
    opening.mesh_of_all(1)
    assert "; 4 GPUs of this machine are left idle" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["edit", "lifelong", "plan", "tune", "mcqa train"])
def test_commands_of_one_host_have_no_options_of_many(command):
    """As docs/run_on_a_pod.md says: they never ask what a launcher tells."""
    import typer

    from kis_jax.cli import app

    found = typer.main.get_command(app)
    for word in command.split():
        found = found.commands[word]
    assert not {"num_hosts", "host", "coordinator"} & {each.name for each in found.params}
