"""Bytes changed at random: a checkpoint loads, or a ValueError says why not; nothing else."""

import json
import pickle
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open

from kis_jax.checkpoints.loading import load_model
from kis_jax.checkpoints.tensors import open_tensors
from tests.checkpoints.conftest import SOURCE, shard, to_msgpack

INDEX = "model.safetensors.index.json"


def changes(size):
    """Up to four bits flipped, bytes cut from the end or the middle, or bytes put in."""
    place = st.integers(0, size - 1)
    flip = st.tuples(st.just("flip"), place, st.integers(0, 7))
    cut = st.tuples(st.just("cut"), place, st.integers(1, size))
    insert = st.tuples(st.just("insert"), place, st.binary(min_size=1, max_size=12))
    return st.lists(st.one_of(flip, flip, cut, insert), min_size=1, max_size=4)


def change(content, steps):
    content = bytearray(content)
    for kind, place, what in steps:
        place = min(place, max(0, len(content) - 1))
        if kind == "flip" and content:
            content[place] ^= 1 << what
        elif kind == "cut":
            del content[place : place + what]
        elif kind == "insert":
            content[place:place] = what
    return bytes(content)


@pytest.fixture(scope="module")
def kinds():
    """The same checkpoint as one file, as shards with an index, and in Flax's format."""
    with tempfile.TemporaryDirectory() as folder:
        homes = {kind: shutil.copytree(SOURCE, Path(folder) / kind) for kind in ("st", "sh", "mp")}
        shard(homes["sh"])
        to_msgpack(homes["mp"])
        yield homes


@pytest.fixture(autouse=True)
def no_pickles(monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("a pickle was opened")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)


CASES = (
    ("st", "model.safetensors"),
    ("st", "config.json"),
    ("sh", INDEX),
    ("mp", "flax_model.msgpack"),
)


def outcome(run, directory):
    try:
        run(directory)
    except ValueError as error:
        assert str(directory) in str(error) and len(str(error)) < 2000
        return "refused"
    return "loaded"


@pytest.mark.parametrize("kind, name", [case for case in CASES if case[1] != "config.json"])
def test_damaged_headers_are_refused_and_nothing_worse(kinds, kind, name):
    """Most changes go to the first bytes, as a flip in a number gives another number."""
    directory = kinds[kind]
    original = (directory / name).read_bytes()
    head = min(len(original), 4000)

    @settings(max_examples=200, deadline=None)
    @given(changes(head))
    def run(steps):
        (directory / name).write_bytes(change(original[:head], steps) + original[head:])
        ours = outcome(open_tensors, directory)
        if name.endswith(".safetensors") and ours == "loaded":
            with safe_open(directory / name, framework="numpy") as file:
                assert file.keys()  # what we take, the format's own library takes too

    try:
        run()
    finally:
        (directory / name).write_bytes(original)


@pytest.mark.parametrize("kind, name", CASES)
def test_damaged_checkpoints_load_or_are_refused(kinds, kind, name):
    directory = kinds[kind]
    original = (directory / name).read_bytes()

    @settings(max_examples=100, deadline=None)
    @given(changes(len(original)))
    def run(steps):
        (directory / name).write_bytes(change(original, steps))
        outcome(load_model, directory)

    try:
        run()
    finally:
        (directory / name).write_bytes(original)


@settings(max_examples=300, deadline=None)
@given(
    st.dictionaries(
        st.text(max_size=3),
        st.one_of(
            st.integers(),
            st.fixed_dictionaries(
                {},
                optional={
                    "dtype": st.sampled_from(["F32", "BF16", "I64", "F99", 3]),
                    "shape": st.lists(st.integers(-1, 2**64), max_size=3) | st.just("x"),
                    "data_offsets": st.lists(st.integers(-1, 20), max_size=3) | st.just([0, 4]),
                },
            ),
        ),
        max_size=3,
    ),
    st.binary(max_size=16),
)
def test_headers_of_any_content_are_read_as_the_formats_library_reads_them(header, body):
    text = json.dumps(header).encode()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        path.write_bytes(len(text).to_bytes(8, "little") + text + body)
        ours = outcome(open_tensors, Path(folder))
        try:
            with safe_open(path, framework="numpy"):
                theirs = "loaded"
        except (SafetensorError, OverflowError):
            theirs = "refused"
        assert ours == "refused" or theirs == "loaded"
