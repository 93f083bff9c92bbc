"""Hosts that were not asked the same end with the same line, before anything is computed."""

import pytest

from kis_jax.checkpoints import fingerprint
from kis_jax.passes.hosts import agreement
from kis_jax.passes.hosts.agreement import agree, versions
from tests.passes.fake_board import agree_on


def test_hosts_that_say_the_same_go_on():
    assert agree_on("request", {"--ridge": 0.1}, {"--ridge": 0.1}, {"--ridge": 0.1}) == [None] * 3


def test_a_difference_is_one_line_on_every_host():
    said = [{"--ridge": 0.0, "--layers": "all"}, {"--ridge": 0.0, "--layers": "3"}]
    found = agree_on("request", said[0], said[0], said[1])
    assert len(set(found)) == 1
    assert found[0].startswith(
        "--layers: expected the same on every host, found all on host 0 and 3 on host 2; start"
    )


def test_all_that_differs_is_named():
    (line, _) = agree_on("request", {"a": 1, "b": None, "c": 3}, {"a": 2, "b": 0, "c": 3})
    assert "found 1 on host 0 and 2 on host 1 (b differ as well)" in line
    (line, _) = agree_on("request", {"a": None}, {"a": 0})
    assert "found none on host 0 and 0 on host 1" in line
    (line, _) = agree_on("request", {"a": 1}, {"a": 1, "b": 2})
    assert line.startswith("b: ") and "found nothing on host 0 and 2 on host 1" in line


def test_what_one_host_cannot_open_ends_all():
    def fails():
        raise FileNotFoundError("/data/corpus.txt: no such file")

    found = agree_on("inputs", {"a": 1}, fails)
    assert found == ["host 1: /data/corpus.txt: no such file"] * 2


def test_a_host_that_never_speaks_is_named_in_time(monkeypatch):
    monkeypatch.setattr(agreement, "TOLD_EVERY", 0.2)
    monkeypatch.setattr(agreement, "_GRACE", 5.0)
    told = []
    found = agree_on(
        "request", {"a": 1}, {"a": 1}, {"a": 1}, seconds=1, tell=told.append, absent=[2]
    )
    assert found[0] == found[1] and found[0].startswith("host 2 of 3: expected word of its request")
    assert any(
        line.startswith("host 0 of 3: waiting for 2 to compare the request") for line in told
    )
    assert any(line.startswith("host 1 of 3: waiting for process 0") for line in told)


def test_process_0_that_never_speaks_is_told_of(monkeypatch):
    monkeypatch.setattr(agreement, "_GRACE", 0.0)
    (_, line) = agree_on("request", {"a": 1}, {"a": 1}, seconds=0.5, absent=[0])
    assert line.startswith("expected word from process 0 on the request, found none")


def test_one_host_alone_keeps_the_kind_of_an_error():
    def fails():
        raise FileNotFoundError("no such file")

    agree("request", lambda: {"a": 1})
    with pytest.raises(FileNotFoundError):
        agree("request", fails)


def test_versions_are_compared():
    here = versions()
    assert {"version of kis_jax", "version of jax", "version of jaxlib"} <= here.keys()
    (line, other) = agree_on("request", here, {**here, "version of jaxlib": "0.0.1"})
    assert line == other and line.startswith("version of jaxlib: ") and "0.0.1 on host 1" in line


def test_a_part_of_the_weights_tells_models_apart(tmp_path, monkeypatch):
    """Of small files every byte counts, of large ones a piece of each step and the size."""
    (tmp_path / "config.json").write_text("{}")
    weights = tmp_path / "model.safetensors"
    monkeypatch.setattr(fingerprint, "weight_files", lambda directory: [weights])
    weights.write_bytes(bytes(1000))
    small = fingerprint.sampled(tmp_path)
    weights.write_bytes(bytes(999) + b"1")
    assert fingerprint.sampled(tmp_path) != small
    for name, size in (("_WHOLE", 100), ("_STEP", 128), ("_PIECE", 16)):
        monkeypatch.setattr(fingerprint, name, size)
    weights.write_bytes(bytes(1000))
    large = fingerprint.sampled(tmp_path)
    weights.write_bytes(bytes(300) + bytes([1] * 128) + bytes(572))  # as wide as a step
    assert fingerprint.sampled(tmp_path) != large
    weights.write_bytes(bytes(1001))
    assert fingerprint.sampled(tmp_path) != large
    (tmp_path / "config.json").write_text("{ }")
    weights.write_bytes(bytes(1000))
    assert fingerprint.sampled(tmp_path) != large
