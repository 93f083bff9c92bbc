"""Text corpora: documents from local files or from the hub."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from kis_jax import factlm
from kis_jax.data.hub import stream_hub
from kis_jax.models import Model

# The Wikipedia of the editing literature, in the form in which the hub has it now.
KNOWN_CORPORA = {"wikipedia": "wikimedia/wikipedia:20231101.en"}

_CHUNK = 256  # documents tokenized at a time


@dataclasses.dataclass(frozen=True)
class Corpus:
    """A source of documents that can be read from the start any number of times.

    Attributes:
      name: as the user gave it.
      documents: opens a fresh stream of the documents, in a fixed order; none is blank.
      num_documents: how many there are; None if that is not known before they are read.
      fingerprint: of all the documents' bytes; for a corpus on the hub, of its name.
      written_by: where a model writes the documents itself, opens a stream of what it writes.
    """

    name: str
    documents: Callable[[], Iterator[str]]
    num_documents: int | None
    fingerprint: str
    written_by: Callable[[Model], Iterator[str]] | None = None

    def read(self, model: Model) -> Iterator[str]:
        """A fresh stream of the documents, for a model, which may have to write them."""
        return self.documents() if self.written_by is None else self.written_by(model)


def open_corpus(source: str | Path, *, limit: int | None = None) -> Corpus:
    """Opens a corpus and reads it through once for its fingerprint; a hub corpus is streamed.

    Args:
      source: a `.txt` file (a document a line), `.jsonl` (an object with `text` a line),
        `.parquet` (a column `text`), or a folder of these, read in the order of their paths, hidden
        ones left out; the name of a data set on the hub, `owner/name[:configuration]`, or
        "wikipedia"; or "factlm", the embedded corpus.
      limit: the most documents to take, from the start; all if None.

    Raises:
      ValueError: if there is no such source, a file has another ending or is broken, or no
        document is in it.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"num_documents: expected a positive number, found {limit}")
    if not str(source):
        raise ValueError("corpus: expected a file, a folder or a hub name, found an empty name")
    path = factlm.corpus_path() if source == factlm.NAME else Path(source)
    name = str(source)
    if not path.exists():
        hub_name = KNOWN_CORPORA.get(name, name)
        local = isinstance(source, Path) or path.suffix in _READERS or name[0] in "/.~"
        if local or "/" not in hub_name:
            raise ValueError(
                f"corpus: expected {', '.join(_READERS)}, a folder of these, or the name of a data "
                f"set on the hub, found no file {name}"
            )
        documents = _limited(lambda: _hub_texts(hub_name), limit)
        digest = hashlib.sha256(f"hub:{hub_name}:{limit}".encode())
        return Corpus(name, documents, None, digest.hexdigest())
    files = _files(path)
    documents = _limited(lambda: itertools.chain.from_iterable(map(_read_file, files)), limit)
    before = _states(files)
    fingerprint, count = _fingerprint(documents())
    if count == 0:
        raise ValueError(f"corpus: expected at least one document, found none in {source}")
    watched = _Watched(name, files, documents, fingerprint, before)
    return Corpus(name, watched, count, fingerprint)


def _fingerprint(documents: Iterable[str]) -> tuple[str, int]:
    """SHA-256 of all documents, and how many there are."""
    digest, count = hashlib.sha256(), 0
    for document in documents:
        digest.update(_digest(document))
        count += 1
    return digest.hexdigest(), count


def _digest(document: str) -> bytes:
    return hashlib.sha256(document.encode("utf-8", "surrogatepass")).digest()


def _states(files: Iterable[Path]) -> list[tuple[int, int, int]]:
    """What changes with a file: its inode, size and time."""
    found = (file.stat() for file in files)
    return [(state.st_ino, state.st_size, state.st_mtime_ns) for state in found]


class _Watched:
    """Streams of documents that end with an error if these are not those that were fingerprinted.

    Files are looked at after every few documents, so that nothing of another text is saved for
    long; what was read is hashed on the way, which decides at the end.
    """

    def __init__(
        self,
        name: str,
        files: list[Path],
        documents: Callable[[], Iterable[str]],
        fingerprint: str,
        states: list[tuple[int, int, int]],
    ) -> None:
        self._name, self._files, self._documents = name, files, documents
        self._fingerprint, self._states = fingerprint, states

    def __call__(self) -> Iterator[str]:
        digest = hashlib.sha256()
        stream = iter(self._documents())
        while chunk := list(itertools.islice(stream, _CHUNK)):
            self._check_files()
            for document in chunk:
                digest.update(_digest(document))
            yield from chunk
        if digest.hexdigest() != self._fingerprint:
            raise self._changed()

    def _check_files(self) -> None:
        """Where a file was touched, all are read again: only what is in them counts."""
        try:
            states = _states(self._files)
            if states == self._states:
                return
            found, _ = _fingerprint(self._documents())
        except OSError:
            raise self._changed() from None
        if found != self._fingerprint:
            raise self._changed()
        self._states = states

    def _changed(self) -> ValueError:
        return ValueError(
            f"corpus: expected {self._name} to stay as it was when this run began, found that it "
            "has changed while it was read; what was measured of it is not recorded: run the "
            "command again, into another folder if an unfinished pass lies in this one"
        )


def tokenize_corpus(
    documents: Iterable[str], tokenizer: PreTrainedTokenizerFast, *, context_length: int
) -> Iterator[list[int]]:
    """Tokenizes documents, some hundreds at a time, each cut to the context.

    Special tokens that the tokenizer adds by default are in; a document of no token is left out.

    Yields:
      Token ids, from 1 to `context_length` of them.
    """
    # A lone surrogate is legal in JSON and in no encoding; tokenizers refuse it.
    stream = (text.encode("utf-8", "replace").decode() for text in documents)
    while chunk := list(itertools.islice(stream, _CHUNK)):
        encoded = tokenizer(chunk, truncation=True, max_length=context_length)
        yield from filter(None, encoded["input_ids"])


def _hub_texts(name: str) -> Iterator[str]:
    for record in stream_hub(name):
        if not isinstance(text := record.get("text"), str):
            raise ValueError(
                f'{name}: expected a data set with a "text" in each record, found '
                f"{', '.join(record)}; name another, or pass a local file"
            )
        yield text


def _limited(open_documents: Callable[[], Iterable[str]], limit: int | None):
    return lambda: itertools.islice(filter(str.strip, open_documents()), limit)


def _files(path: Path) -> list[Path]:
    files = [path]
    if (path / "scan.json").exists():
        raise ValueError(
            f"corpus: expected text, found the folder of a scan, {path}; name its text"
        )
    if path.is_dir():
        files = sorted(
            file
            for file in path.rglob("*")
            if file.suffix in _READERS
            and file.is_file()
            and not any(part.startswith(".") for part in file.relative_to(path).parts)
        )
    if not files:
        raise ValueError(
            f"corpus: expected files ending in {', '.join(_READERS)}, found none in {path}"
        )
    for file in files:
        if file.suffix not in _READERS:
            raise ValueError(
                f"corpus: expected a file ending in {', '.join(_READERS)}, found {file}; "
                "rename it, or convert it to a document a line"
            )
    return files


def _read_file(path: Path) -> Iterator[str]:
    return _READERS[path.suffix](path)


def _read_text(path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8-sig") as file:
            for line in file:
                yield line.rstrip("\n")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: expected UTF-8 text, found {error.reason}; convert the file to UTF-8"
        ) from None


def _read_json_lines(path: Path) -> Iterator[str]:
    for number, line in enumerate(_read_text(path), 1):
        if not line.strip():
            continue
        try:
            text = json.loads(line)["text"]
        except (ValueError, KeyError, TypeError, RecursionError):
            text = None
        if not isinstance(text, str):
            raise ValueError(
                f'{path}, line {number}: expected an object with "text", found {line[:60]!r}'
            )
        yield text


def _read_parquet(path: Path) -> Iterator[str]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ValueError(
            f"{path}: reading parquet needs pyarrow; pip install 'kis_jax[data]', or convert the "
            "file to .jsonl"
        ) from None
    wrong = f'{path}: expected a parquet file with a column "text" of strings, found'
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_CHUNK, columns=["text"]):
                column = batch.column("text")
                for text in filter(None, column.to_pylist()):
                    if not isinstance(text, str):
                        raise ValueError(f"{wrong} one of {column.type}")
                    yield text
    except (pyarrow.ArrowException, KeyError) as error:
        raise ValueError(f"{wrong} {error}") from error


_READERS: dict[str, Callable[[Path], Iterator[str]]] = {
    ".txt": _read_text,
    ".jsonl": _read_json_lines,
    ".parquet": _read_parquet,
}
