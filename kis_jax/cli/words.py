"""Streams for words, which cost no result: what cannot be printed is spelt out or left unsaid."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TextIO


class Words:
    """Standard output or error; a closed pipe swallows the rest, and no character is an error.

    Examples:
      >>> import io
      >>> narrow = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
      >>> Words(narrow).write("π")  # as six signs
      6
    """

    def __init__(self, stream: TextIO) -> None:
        """Of a stream, which is left open."""
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        """All else is the stream's."""
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Writes what the stream's encoding has, and the rest as escapes."""
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        text = text.encode(encoding, "backslashreplace").decode(encoding)
        return self._unless_closed(lambda: self._stream.write(text), len(text))

    def flush(self) -> None:
        """As of the stream."""
        self._unless_closed(self._stream.flush, None)

    def _unless_closed(self, act: Callable[[], Any], otherwise: Any) -> Any:
        try:
            return act()
        except BrokenPipeError:  # whoever read it has seen enough
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
            return otherwise
