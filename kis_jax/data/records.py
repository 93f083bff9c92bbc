"""Records of a JSON or parquet file one after another, whatever their wrapping and encoding."""

from __future__ import annotations

import codecs
import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

_CHUNK = 1 << 18  # bytes read at a time
_POINTER = b"version https://git-lfs"
_WRAPPERS = ("records", "data", "facts", "examples", "edits", "train", "test", "validation")
# What is not text, by its first bytes, and what to do about it.
_OTHERS = {
    b"PK\x03\x04": "a zip archive; unpack it and name the file in it",
    b"\xfd7zXZ": "an xz archive; unpack it",
    b"BZh": "a bzip2 archive; unpack it",
    b"\x28\xb5\x2f\xfd": "a zstandard archive; unpack it",
    b"\x93NUMPY": "a NumPy array; save its records as JSON",
    b"\x80\x04": "a pickle, which is not opened as it may run code; save its records as JSON",
}
_BLANKS = re.compile(r"[ \t\r\n]*")


class Number(float):
    """A number that is not whole, with its text as the file has it."""

    text: str

    def __new__(cls, text: str) -> Number:
        """From the text."""
        number = super().__new__(cls, text)
        number.text = text
        return number

    def __str__(self) -> str:
        """The text, digit for digit."""
        return self.text


def iter_records(
    path: Path, *, on_bytes: Callable[[int], None] = lambda done: None
) -> Iterator[tuple[str, Any]]:
    r"""The records of a file, each with where it stands, for messages.

    A file holds a JSON list, JSON values one after another (JSON lines, or a single record), an
    object with the list under "records" or the like, or parquet; text is UTF-8 or UTF-16, with
    or without gzip. What it is is seen by its content, not by its name. Of all but an object
    around a list, no more is held than one record and a quarter of a million bytes.

    Args:
      path: of the file.
      on_bytes: called now and then with how many of the file's bytes are read.

    Yields:
      Where the record stands, such as "record 3", and the record. A null, NaN or infinity is None.

    Raises:
      ValueError: naming the file, and line and column, of what cannot be read; also where an object
        has a key twice, of which one value would be lost.

    Examples:
      >>> import tempfile
      >>> path = Path(tempfile.mkdtemp(), "facts.jsonl")
      >>> _ = path.write_text('{"src": "Where?"}\n{"src": "Who?"}\n')
      >>> list(iter_records(path))
      [('record 1', {'src': 'Where?'}), ('record 2', {'src': 'Who?'})]
    """
    with path.open("rb") as file:
        head = file.read(512)
        _check_kind(path, head)
        file.seek(0)
        if head.startswith(b"PAR1"):
            values = _parquet(path, on_bytes)
        else:
            values = _json_values(path, file, head, on_bytes)
        for number, value in enumerate(values, 1):
            yield f"record {number}", value


def _check_kind(path: Path, head: bytes) -> None:
    """Raises ValueError naming what the file is, where that is no file of records."""
    found = next((what for start, what in _OTHERS.items() if head.startswith(start)), None)
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if start.startswith(_POINTER):
        found = (
            "a pointer to a file of the hub, not the file itself; fetch it with `git lfs pull`, or "
            "by its download link"
        )
    elif start[:1] == b"<":
        found = "a page of HTML; download the file itself, by the link named raw or download"
    elif not start:
        found = "an empty file; download it again" if not head else "nothing but blanks"
    if found:
        raise ValueError(f"{path}: expected JSON or parquet records, found {found}")


def _json_values(
    path: Path, file: BinaryIO, head: bytes, on_bytes: Callable[[int], None]
) -> Iterator[Any]:
    """The records of text, with all that can go wrong in reading it as one line."""
    plain: Any = file
    try:
        if head.startswith(b"\x1f\x8b"):
            plain = gzip.open(file)
            head = plain.read(512)
            _check_kind(path, head)
            plain.seek(0)
        decoder = codecs.getincrementaldecoder(_encoding(head))()

        def read() -> str:
            while chunk := plain.read(_CHUNK):
                on_bytes(file.tell())
                if text := decoder.decode(chunk):
                    return text
            return decoder.decode(b"", final=True)

        yield from _Values(path, read).records()
    except UnicodeError as error:
        reason = getattr(error, "reason", str(error))
        raise ValueError(
            f"{path}: expected UTF-8 text, found {reason}; convert the file to UTF-8"
        ) from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(
            f"{path}: expected a whole gzip file, found {error}; download it again"
        ) from None


def _encoding(head: bytes) -> str:
    """Of text that begins with a bracket: UTF-16 shows by its mark or by zeros."""
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "utf-16"
    if head[1:2] == b"\0":
        return "utf-16-le"
    return "utf-16-be" if head[:1] == b"\0" else "utf-8-sig"


class _Values:
    """JSON values out of text that comes in pieces."""

    def __init__(self, path: Path, read: Callable[[], str]) -> None:
        self._path, self._read = path, read
        self._text, self._place, self._ended = "", 0, False
        self._line, self._column = 1, 0  # of the first character of what is held
        self._decoder = json.JSONDecoder(
            object_pairs_hook=self._object, parse_float=Number, parse_constant=lambda _: None
        )

    def records(self) -> Iterator[Any]:
        """The elements of a list; or of the list in an object; or values one after another."""
        if self._next() == "[":
            self._place += 1
            yield from self._elements()
            return
        first, several = self._value(), bool(self._next())
        wrapped = [] if several else _wrapped(first)
        if wrapped:
            yield from wrapped
            return
        yield first
        while self._next():
            yield self._value()

    def _elements(self) -> Iterator[Any]:
        if self._next() != "]":
            yield self._value()
            while self._next() == ",":
                self._place += 1
                yield self._value()
        if self._next() != "]":
            self._refuse("Expecting ',' delimiter or ']'", self._place)
        self._place += 1
        if self._next():
            self._refuse("Extra data after the list", self._place)

    def _next(self) -> str:
        """The next character that is no blank, which stays; "" at the end."""
        while True:
            found = _BLANKS.match(self._text, self._place)
            self._place = found.end() if found else self._place
            if self._place < len(self._text) or not self._more():
                return self._text[self._place : self._place + 1]

    def _more(self) -> bool:
        """Reads a piece, and drops what is through; whether there was one."""
        if self._ended:
            return False
        # As much again as is held, so that a long value is not begun anew for every piece.
        pieces = [self._read()]
        while pieces[-1] and sum(map(len, pieces)) < len(self._text) - self._place:
            pieces.append(self._read())
        self._ended = not pieces[-1]
        self._line, self._column = self._where(self._place)
        self._text, self._place = self._text[self._place :] + "".join(pieces), 0
        return True

    def _value(self) -> Any:
        self._next()
        while True:
            try:
                value, self._place = self._decoder.raw_decode(self._text, self._place)
                return value
            except json.JSONDecodeError as error:
                # A value that is cut off fails at the end of what is held, or at its last text.
                cut = error.msg.startswith("Unterminated") or error.pos > len(self._text) - 16
                if cut and self._more():
                    continue
                self._refuse(error.msg, error.pos)
            except RecursionError:
                self._refuse("lists or objects too deep in one another", self._place)
            except ValueError as error:  # a key twice, a number too long
                self._refuse(str(error), self._place)

    def _object(self, pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"the key {twice!r} twice in one object, and one value would be lost")
        return found

    def _refuse(self, found: str, place: int) -> None:
        line, column = self._where(place)
        raise ValueError(
            f"{self._path}: expected JSON, found {found} at line {line} column {column + 1}; mend "
            "the line, or download the file again"
        ) from None

    def _where(self, place: int) -> tuple[int, int]:
        """Line, from 1, and column, from 0, of a character of what is held."""
        start = self._text.rfind("\n", 0, place) + 1
        before = 0 if start else self._column
        return self._line + self._text.count("\n", 0, place), before + place - start


def _wrapped(value: Any) -> list[Any]:
    """The list that an object holds under one of the usual names; the hub's rows as they are."""
    if not isinstance(value, dict):
        return []
    rows = value.get("rows")
    if isinstance(rows, list) and all(isinstance(row, dict) and "row" in row for row in rows):
        return [row["row"] for row in rows]
    lists = [value[name] for name in _WRAPPERS if isinstance(value.get(name), list)]
    return lists[0] if len(lists) == 1 else []


def _parquet(path: Path, on_bytes: Callable[[int], None]) -> Iterator[Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ValueError(
            f"{path}: reading parquet needs pyarrow; pip install 'kis_jax[data]', or convert the "
            "file to JSON lines"
        ) from None
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            size, done = path.stat().st_size, 0
            for batch in file.iter_batches(batch_size=256):
                done += batch.num_rows
                on_bytes(size * done // max(1, file.metadata.num_rows))
                yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"{path}: expected a whole parquet file, found {reason}; download it again"
        ) from None
