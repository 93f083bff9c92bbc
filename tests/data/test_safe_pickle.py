"""Object arrays from strangers: what is plain is read, and nothing of the rest runs."""

import io
import os
import pickle
import pickletools
from pathlib import Path

import numpy as np
import pytest

from kis_jax.data.safe_pickle import read_object_array

RECORDS = [
    {"id": "SP-0", "question": "Who?", "choice_list": ["I", "You"], "label": 1, "x": None},
    {"id": "SP-0_SR", "nested": ({"a": [1.5, True, b"z"]}, {2, 3}), "label": np.int64(0)},
    {"array": np.arange(6.0).reshape(2, 3), "texts": np.array(["ab", "c"]), "one": np.float32(2)},
    {"objects": np.array([["a", None], [{"b": 1}, 2]], object)},
]
PLAIN = [
    RECORDS[0],
    {"id": "SP-0_SR", "nested": ({"a": [1.5, True, b"z"]}, {2, 3}), "label": 0},
    {"array": [0.0, 1.0, 2.0, 3.0, 4.0, 5.0], "texts": ["ab", "c"], "one": 2.0},
    {"objects": ["a", None, {"b": 1}, 2]},
]


def write(path, content, *, shape, protocol=None):
    """A `.npy` file with a pickle of one's own."""
    with path.open("wb") as file:
        header = {"descr": "|O", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        file.write(content if protocol is None else pickle.dumps(content, protocol))
    return path


def array_of(items):
    array = np.empty(len(items), object)
    array[:] = items
    return array


def test_plain_values_are_read(tmp_path):
    np.save(tmp_path / "a.npy", array_of(RECORDS), allow_pickle=True)
    assert read_object_array(tmp_path / "a.npy") == PLAIN


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_protocols_of_older_numpys_are_read(tmp_path, protocol):
    """The published files were written by one that called itself numpy.core."""
    content = pickle.dumps(array_of(PLAIN[:1]), protocol).replace(b"numpy._core", b"numpy.core")
    if protocol == 4:  # strings and frames carry their length
        content = _shortened(pickle.dumps(array_of(PLAIN[:1]), protocol))
    path = write(tmp_path / "a.npy", content, shape=(1,))
    if protocol == 2:  # bytes come as a call of _codecs.encode, which newer ones do without
        with pytest.raises(ValueError, match="it asks for _codecs.encode"):
            read_object_array(path)
    else:
        assert read_object_array(path) == PLAIN[:1]


def _shortened(content):
    new, old = b"numpy._core.multiarray", b"numpy.core.multiarray"
    content = content.replace(bytes([0x8C, len(new)]) + new, bytes([0x8C, len(old)]) + old)
    assert content[2] == 0x95  # a frame, one byte shorter now
    return (
        content[:3]
        + (int.from_bytes(content[3:11], "little") - 1).to_bytes(8, "little")
        + content[11:]
    )


def write_file(path):
    Path(path).write_text("was here")


class Writes:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return write_file, (str(self.path),)


class Calls:
    def __init__(self, call, *arguments):
        self.made = call, arguments

    def __reduce__(self):
        return self.made


def test_code_in_a_pickle_never_runs(tmp_path):
    mark = tmp_path / "was here"
    np.save(tmp_path / "a.npy", array_of([{"id": Writes(mark)}]), allow_pickle=True)
    with pytest.raises(
        ValueError, match=r"asks for tests.\S+write_file, which is not loaded; download"
    ):
        read_object_array(tmp_path / "a.npy")
    assert not mark.exists()
    np.load(tmp_path / "a.npy", allow_pickle=True)
    assert mark.exists(), "the file of this test would have done it"


@pytest.mark.parametrize(
    "thing",
    [
        Calls(os.system, "true"),
        Calls(eval, "1"),
        Calls(getattr, "a", "upper"),
        Calls(np.load, "x.npy"),
        Calls(np.ndarray, (10**9,)),
        Calls(__import__, "os"),
        Writes,
        np.float64,
        print,
        1j,
        np.array([Writes("/nowhere")], object),
        np.array(["2020-01-01"], "datetime64[D]"),
    ],
    ids=[
        "system",
        "eval",
        "getattr",
        "load",
        "ndarray",
        "import",
        "class",
        "type",
        "function",
        "complex",
        "nested",
        "dates",
    ],
)
def test_whatever_is_not_plain_is_refused(tmp_path, thing):
    path = write(tmp_path / "a.npy", array_of([thing]), shape=(1,), protocol=4)
    with pytest.raises(ValueError, match="expected an array of plain values, found that"):
        read_object_array(path)


def assembled(text):
    """A pickle from its opcodes' names, strings as arguments of GLOBAL."""
    codes = {code.name: code.code.encode("latin-1") for code in pickletools.opcodes}
    return b"".join(codes[word] if word in codes else word.encode() for word in text.split("~"))


@pytest.mark.parametrize(
    "program",
    [
        "GLOBAL~numpy\ndtype\n~EMPTY_DICT~BUILD~STOP",
        "GLOBAL~numpy\nndarray\n~NONE~BUILD~STOP",
        "GLOBAL~numpy\nndarray\n~EMPTY_TUPLE~NEWOBJ~STOP",
        "GLOBAL~numpy\nndarray\n~EMPTY_TUPLE~REDUCE~STOP",
        "GLOBAL~numpy._core.multiarray\nscalar\n~EMPTY_TUPLE~REDUCE~STOP",
        "GLOBAL~numpy\ndtype\n~STOP",
        "NONE~STOP",
        "STOP",
        "",
    ],
)
def test_programs_by_hand_are_refused(tmp_path, program):
    path = write(tmp_path / "a.npy", assembled(program), shape=(1,))
    with pytest.raises(ValueError, match="a.npy: expected"):
        read_object_array(path)


def test_a_list_of_lists_of_lists_comes_to_an_end(tmp_path):
    bomb = []
    for _ in range(19):
        bomb = [bomb] * 100
    path = write(tmp_path / "a.npy", array_of([bomb]), shape=(1,), protocol=4)
    with pytest.raises(ValueError, match="nested too deeply"):
        read_object_array(path)


def test_a_tuple_in_tuples_is_refused_before_it_is_hashed(tmp_path):
    """As the key of a dictionary it would end the process, which no except catches."""
    deep = b"N" + b"\x85" * 200_000  # None, TUPLE1 ...
    path = write(tmp_path / "a.npy", b"]}" + deep + b"Nsa.", shape=(1,))
    with pytest.raises(ValueError, match="nested too deeply"):
        read_object_array(path)
    by_memo = b"Nq\x00" + b"h\x00\x85q\x00" * 200_000  # the same, by way of the memo
    path = write(tmp_path / "b.npy", b"]}" + by_memo + b"h\x00Nsa.", shape=(1,))
    with pytest.raises(ValueError, match="nested too deeply"):
        read_object_array(path)
    hidden = b"N" * 200_002 + b"(0\x85" * 200_000  # a mark that is taken for a value
    path = write(tmp_path / "c.npy", b"]" + hidden + b"q\x00]}h\x00Nsa.", shape=(1,))
    with pytest.raises(ValueError, match="it has the step POP"):
        read_object_array(path)


def test_a_tuple_of_tuples_many_times_over_is_refused_before_it_is_hashed(tmp_path):
    layers = (b"(" + b"h\x00" * 100 + b"tq\x00") * 9  # nine deep, and 100 to the ninth to hash
    path = write(tmp_path / "a.npy", b"]}Nq\x00" + layers + b"Nsa.", shape=(1,))
    with pytest.raises(ValueError, match="nested too deeply"):
        read_object_array(path)


def test_arrays_by_columns_are_read_by_rows(tmp_path):
    records = [{"a": np.asfortranarray(np.arange(6).reshape(2, 3))}]
    np.save(tmp_path / "a.npy", array_of(records), allow_pickle=True)
    assert read_object_array(tmp_path / "a.npy") == [{"a": [0, 1, 2, 3, 4, 5]}]


def test_arguments_that_numpy_would_not_write_are_refused(tmp_path):
    for content in (b"]cnumpy\ndtype\n]\x85Ra.", b"]cnumpy\ndtype\n)Ra."):
        with pytest.raises(ValueError, match="it calls numpy.dtype"):
            read_object_array(write(tmp_path / "a.npy", content, shape=(1,)))


def test_a_memo_longer_than_the_file_is_refused(tmp_path):
    path = write(tmp_path / "a.npy", b"]r" + (2**29).to_bytes(4, "little") + b".", shape=(0,))
    with pytest.raises(ValueError, match="it numbers more values than it has"):
        read_object_array(path)


def test_any_damage_is_an_error_or_plain(tmp_path, rng):
    """Bytes of a good file changed at random: no crash, no other kind of error."""
    buffer = io.BytesIO()
    np.save(buffer, array_of(RECORDS), allow_pickle=True)
    good = np.frombuffer(buffer.getvalue(), np.uint8)
    refused = 0
    for _ in range(300):
        bad = good.copy()
        bad[rng.integers(10, len(bad), 3)] = rng.integers(0, 256, 3)
        (tmp_path / "a.npy").write_bytes(bad.tobytes())
        try:
            read_object_array(tmp_path / "a.npy")
        except ValueError:
            refused += 1
    assert refused > 30


def test_other_npy_files_are_named(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(3))
    with pytest.raises(ValueError, match="expected an array of objects with one axis, found int64"):
        read_object_array(tmp_path / "a.npy")
    (tmp_path / "b.npy").write_text("id,question")
    with pytest.raises(ValueError, match="expected a .npy file, found none"):
        read_object_array(tmp_path / "b.npy")
    path = write(tmp_path / "c.npy", array_of([1, 2]), shape=(3,), protocol=4)
    with pytest.raises(ValueError, match="expected 3 elements, found others"):
        read_object_array(path)
