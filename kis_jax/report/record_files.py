"""The JSON record that a command leaves, read back and checked.

A report is drawn from files alone. Whatever is wrong with them comes as one `ValueError` that
names the file and the remedy, before anything is written.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

Record = TypeVar("Record")


def read_record(
    path: Path, *, command: str, format: int, parse: Callable[[Mapping[str, Any]], Record]
) -> Record:
    """Reads a record.

    Args:
      path: of the JSON file.
      command: that writes it, for messages, such as "kis scan".
      format: that is understood, the record's entry of that name.
      parse: makes of the JSON object what a page needs; may raise as lookups and conversions do.

    Returns:
      What `parse` made.

    Raises:
      ValueError: when the file is missing, is no JSON, has another format, or lacks an entry.
    """
    remedy = f"run `{command}` again into a fresh directory"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(
            f"{path}: no such file; name the directory of a finished `{command}`, or run one"
        ) from None
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}); {remedy}") from error
    except (ValueError, RecursionError) as error:  # broken JSON and broken UTF-8
        raise ValueError(f"{path}: not valid JSON ({error}); {remedy}") from error
    found = record.get("format") if isinstance(record, dict) else None
    if found != format:
        raise ValueError(f"{path}: format {format} expected, {found!r} found; {remedy}")
    try:
        return parse(record)
    except KeyError as error:
        raise ValueError(f"{path}: the entry {error} is missing; {remedy}") from error
    except (TypeError, ValueError, IndexError, AttributeError) as error:
        raise ValueError(f"{path}: an entry is not as expected ({error}); {remedy}") from error


def number(value: float | None) -> float:
    """A number of a record, in which null stands for what is not finite."""
    return float("nan") if value is None else float(value)
