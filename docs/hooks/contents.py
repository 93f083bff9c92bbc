"""The table at the head of a page of the API: each name, with the first line of its docstring.

A hook of MkDocs, named in mkdocs.yml. It stands before the first heading of the second level.
"""

from __future__ import annotations

import importlib
import inspect
import re
from typing import Any


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """The page with its table, if it shows anything."""
    shown = re.findall(r"^(?:## (.+)|::: (\S+))$", markdown, re.MULTILINE)
    rows = []
    for title, path in shown:
        if title:
            rows.append(f"| **{title}** | |")
            continue
        module, _, name = path.rpartition(".")
        thing = getattr(importlib.import_module(module), name)
        rows.append(f"| [`{name}`][{path}] | {_first_line_of(thing)} |")
    if not page.file.src_uri.startswith("api/") or not any(path for _, path in shown):
        return markdown
    head, mark, rest = markdown.partition("\n## ")
    return "\n".join([head, "| name | what it is |", "| --- | --- |", *rows, mark + rest])


def _first_line_of(thing: Any) -> str:
    return (inspect.getdoc(thing) or "").partition("\n")[0].replace("|", r"\|")
