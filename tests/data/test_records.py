"""Files of records: however they are wrapped and encoded, and however large."""

import gzip
import json
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kis_jax.data import records
from kis_jax.data.records import iter_records

RECORDS = [{"src": "Wo ist Köln?", "n": 1}, {"src": "東京は？", "list": [1, {"a": None}]}]


def lines(values):
    return "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values)


def text(values):
    return json.dumps(values, ensure_ascii=False)


def read(path):
    return [record for _, record in iter_records(path)]


TEXTS = {
    "list": text(RECORDS),
    "indented": json.dumps(RECORDS, indent=4),
    "under records": text({"version": 2, "records": RECORDS}),
    "under data": text({"data": RECORDS}),
    "rows of the hub": text({"features": [], "rows": [{"row": r} for r in RECORDS]}),
    "lines": lines(RECORDS),
    "lines with blank ones": "\n" + lines(RECORDS).replace("\n", "\r\n\r\n"),
    "without a last line break": lines(RECORDS).rstrip(),
}


@pytest.mark.parametrize("content", TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("name", ["facts.json", "facts.txt.gz"])
def test_every_wrapping_in_every_encoding(tmp_path, content, encoding, name):
    path = tmp_path / name
    content = content.lstrip() if encoding.endswith("e") else content
    data = content.encode(encoding)
    path.write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    assert read(path) == RECORDS


def test_a_single_record_and_parquet(tmp_path):
    path = tmp_path / "facts"
    path.write_text(text({"src": "Who?", "alt": "I"}))
    assert read(path) == [{"src": "Who?", "alt": "I"}]
    pytest.importorskip("pyarrow")
    import pyarrow
    import pyarrow.parquet

    rows = [{"src": f"Who is {i}?", "loc": {"a": ["b"]}} for i in range(700)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    assert read(path) == rows
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match="expected a whole parquet file"):
        read(path)


def test_numbers_keep_their_text_and_what_is_none_is_none(tmp_path):
    path = tmp_path / "facts.json"
    path.write_text('[{"a": 1.50, "b": 1e3, "c": NaN, "d": null, "e": 17.0, "f": 3}]')
    (found,) = read(path)
    assert [str(found[name]) for name in "abe"] == ["1.50", "1e3", "17.0"]
    assert found["e"].is_integer() and found["c"] is found["d"] is None and found["f"] == 3


# Named, as the bytes of gzip hold the time: names made of them would differ between workers.
DAMAGED = {
    "cut gzip": (gzip.compress(text(RECORDS).encode())[:-9], "expected a whole gzip file"),
    "zip": (b"PK\x03\x04", "found a zip archive; unpack it"),
    "pickle": (b"\x80\x04\x95", "found a pickle, which is not opened"),
    "zipped page": (gzip.compress(b"<html>"), "found a page of HTML"),
    "not UTF-8": (b'[{"a": "\xff"}]', "expected UTF-8 text"),
    "a long number": (b'[{"a": 1' + b"0" * 5000 + b"}]", "expected JSON, found"),
    "an open string": (b'[{"a": "x}]', "Unterminated string"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_what_is_damaged_is_named_in_one_line(tmp_path, case):
    data, message = DAMAGED[case]
    path = tmp_path / "facts.json"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=message) as raised:
        read(path)
    assert str(path) in str(raised.value) and "\n" not in str(raised.value)


@settings(max_examples=60, deadline=None)
@given(values=st.lists(st.dictionaries(st.text(), st.text() | st.integers(), min_size=1)))
@pytest.mark.parametrize("wrap", [text, lines], ids=["list", "lines"])
def test_pieces_of_a_file_change_nothing(tmp_path_factory, wrap, values):
    path = tmp_path_factory.mktemp("pieces") / "facts.json"
    path.write_text(wrap(values), encoding="utf-8", errors="surrogatepass")
    if not values and wrap is lines:
        return
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(records, "_CHUNK", 3)
        assert read(path) == values


def test_the_place_of_an_error_far_into_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "_CHUNK", 64)
    good = lines([{"a": i} for i in range(100)])
    for content, place in (
        (good + '{"a": ?}\n', "line 101 column 7"),
        ("[" + ",".join(['{"a": 1}'] * 100) + ',{"a": ?}]', f"line 1 column {1 + 900 + 7}"),
    ):
        path = tmp_path / "facts.json"
        path.write_text(content)
        with pytest.raises(ValueError, match=f"{place};"):
            read(path)


@pytest.mark.parametrize("wrap", ["list", "lines"])
def test_memory_does_not_grow_with_the_file(tmp_path, wrap):
    """The most that is held of 8 MB is what is held of 2 MB, and less than either."""
    peaks = []
    for count in (20_000, 80_000):
        path = tmp_path / f"{count}.json"
        record = (
            '{"src": "Who leads Great Keld?", "subject": "Great Keld", "alt": "Vera Holm", "n": 1}'
        )
        between, ends = (",\n", "[]") if wrap == "list" else ("\n", ["", ""])
        path.write_text(ends[0] + between.join([record] * count) + ends[1])
        done = []
        tracemalloc.start()
        found = sum(1 for _ in iter_records(path, on_bytes=done.append))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert found == count
        assert done == sorted(done) and done[-1] == path.stat().st_size
    assert peaks[1] < 1.2 * peaks[0] < 3e6
