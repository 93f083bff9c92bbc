import json
import os

import pyarrow
import pyarrow.parquet
import pytest

from kis_jax.data import corpora
from kis_jax.data.corpora import open_corpus

TEXTS = ["The first text.", "Ünïcode, 漢字 and 🦜.", "The third."]


@pytest.fixture
def formats(tmp_path):
    """The same documents in every format; blank ones among them do not count."""
    files = {name: tmp_path / f"corpus.{name}" for name in ("txt", "jsonl", "parquet")}
    files["txt"].write_text("\n".join([TEXTS[0], "", TEXTS[1], "   ", TEXTS[2]]) + "\n")
    lines = [json.dumps({"text": text, "id": i}) for i, text in enumerate([*TEXTS, " "])]
    files["jsonl"].write_text("\n\n".join(lines))
    pyarrow.parquet.write_table(pyarrow.table({"text": [*TEXTS, None]}), files["parquet"])
    return files


def test_all_formats_hold_the_same_documents(formats):
    opened = [open_corpus(path) for path in formats.values()]
    assert [list(corpus.documents()) for corpus in opened] == 3 * [TEXTS]
    assert {corpus.num_documents for corpus in opened} == {3}
    assert len({corpus.fingerprint for corpus in opened}) == 1
    assert list(opened[0].documents()) == TEXTS, "a second reading starts anew"


def test_a_folder_is_read_in_the_order_of_its_paths(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "1.txt").write_text("three\n")
    (tmp_path / "a.txt").write_text("one\ntwo")
    (tmp_path / "README.md").write_text("not part of it")
    (tmp_path / ".hidden.txt").write_text("nor this")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "c.txt").write_text("nor that")
    assert list(open_corpus(tmp_path).documents()) == ["one", "two", "three"]


def test_limit_and_fingerprint(formats):
    limited = open_corpus(formats["txt"], limit=2)
    assert list(limited.documents()) == TEXTS[:2] and limited.num_documents == 2
    assert limited.fingerprint != open_corpus(formats["txt"]).fingerprint
    with pytest.raises(ValueError, match="num_documents: expected a positive"):
        open_corpus(formats["txt"], limit=0)


def test_tokens_are_cut_to_the_context_with_special_tokens_in(embedded_tokenizer):
    tokens = list(
        corpora.tokenize_corpus(["a " * 500, "One line.", ""], embedded_tokenizer, context_length=9)
    )
    plain = embedded_tokenizer(["a " * 500, "One line."])["input_ids"]
    assert tokens == [text[:9] for text in plain]


def test_a_hub_corpus_is_streamed_up_to_its_limit(monkeypatch):
    asked = []

    def stream(name):
        asked.append(name)
        for i in range(10**9):
            yield {"text": f"document {i}"}

    monkeypatch.setattr(corpora, "stream_hub", stream)
    corpus = open_corpus("wikipedia", limit=3)
    assert list(corpus.documents()) == ["document 0", "document 1", "document 2"]
    assert asked == ["wikimedia/wikipedia:20231101.en"] and corpus.num_documents is None
    monkeypatch.setattr(corpora, "stream_hub", lambda name: iter([{"title": "x"}]))
    with pytest.raises(ValueError, match='expected a data set with a "text".*found title'):
        list(open_corpus("wikipedia").documents())


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"\n \n", "at least one document, found none"),
        ("a.txt", b"\xff\xfe", "expected UTF-8"),
        ("a.jsonl", b'{"text": "x"}\n{"txt": 1}\n', r"line 2: expected an object with .text."),
        ("a.jsonl", b"[1", "line 1: expected an object"),
        ("a.parquet", b"PAR1", "expected a parquet file"),
        ("a.csv", b"x", r"ending in \.txt, \.jsonl, \.parquet, found"),
    ],
)
def test_what_is_broken_is_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        open_corpus(tmp_path / name)


def test_lone_surrogates_are_replaced(embedded_tokenizer):
    tokens = corpora.tokenize_corpus(["a\ud800b", "c"], embedded_tokenizer, context_length=9)
    assert list(tokens) == embedded_tokenizer(["a?b", "c"])["input_ids"]


def test_a_parquet_without_text_is_named(tmp_path):
    pyarrow.parquet.write_table(pyarrow.table({"text": [1, 2]}), tmp_path / "b.parquet")
    with pytest.raises(ValueError, match='a column "text" of strings, found .*int64'):
        open_corpus(tmp_path / "b.parquet")
    pyarrow.parquet.write_table(pyarrow.table({"body": ["x"]}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match='a column "text"'):
        open_corpus(tmp_path / "a.parquet")


def test_an_empty_folder_and_a_missing_file_are_named(tmp_path):
    with pytest.raises(ValueError, match="expected files ending in"):
        open_corpus(tmp_path)
    with pytest.raises(ValueError, match="found no file"):
        open_corpus("nowhere.txt")


def test_a_scan_is_no_text_though_its_checkpoints_hold_some(tmp_path):
    (tmp_path / "scan.json").write_text("{}")
    (tmp_path / "commit_success.txt").write_text("of a checkpoint")
    with pytest.raises(ValueError, match="expected text, found the folder of a scan"):
        open_corpus(tmp_path)


@pytest.mark.parametrize("change", ["rewritten", "cut", "appended to", "gone"])
def test_a_corpus_that_changes_while_it_is_read_is_refused(tmp_path, monkeypatch, change):
    """At the next look at the files; what was read before may have been of the new text already."""
    monkeypatch.setattr(corpora, "_CHUNK", 2)
    path = tmp_path / "corpus.txt"
    lines = [f"text {number:05d}" for number in range(9000)]  # more than a buffer
    path.write_text("\n".join(lines))
    corpus = open_corpus(path)
    stream = corpus.documents()
    assert next(stream) == lines[0]
    if change == "gone":
        path.unlink()
    else:
        others = {
            "rewritten": ["text x" + line[6:] for line in lines],
            "cut": lines[:7000],
            "appended to": [*lines, "more"],
        }
        path.write_text("\n".join(others[change]))
    with pytest.raises(ValueError, match="corpus: expected .* to stay as it was .* has changed"):
        list(stream)
    with pytest.raises((ValueError, FileNotFoundError)):
        list(corpus.documents())


def test_a_change_that_leaves_no_trace_is_found_at_the_end(tmp_path, monkeypatch):
    path = tmp_path / "corpus.txt"
    path.write_text("one\ntwo")
    corpus = open_corpus(path)
    monkeypatch.setattr(corpora, "_states", lambda files: corpus.documents._states)
    path.write_text("one\nsix")
    with pytest.raises(ValueError, match="has changed while it was read"):
        list(corpus.documents())


def test_one_byte_of_a_large_corpus_counts(tmp_path):
    """More than 64 MiB, its size and time as they were: all that is read is hashed, not samples."""
    path = tmp_path / "corpus.txt"
    line = b"x" * (2**16 - 1) + b"\n"
    path.write_bytes(line * 1100)
    corpus, state = open_corpus(path), path.stat()
    stream = corpus.documents()
    next(stream)
    with path.open("r+b") as file:
        file.seek(1000 * 2**16 + 777)
        file.write(b"y")
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert state.st_size > 2**26
    with pytest.raises(ValueError, match="has changed while it was read"):
        list(stream)


def test_a_corpus_that_is_touched_alone_is_read_on(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_text("\n".join(TEXTS))
    corpus = open_corpus(path)
    os.utime(path, (1, 1))
    assert list(corpus.documents()) == TEXTS
    assert list(corpus.documents()) == TEXTS
