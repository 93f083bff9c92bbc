"""Formulas as MathML, which browsers draw by themselves: the site needs no script and no network.

A hook of MkDocs, named in mkdocs.yml. Arithmatex has marked the formulas of pages and docstrings;
each is put in place of its mark, and one that cannot be read ends a strict build.
"""

from __future__ import annotations

import html
import logging
import re
from typing import Any

from latex2mathml.converter import convert

_LOG = logging.getLogger("mkdocs.hooks.formulas")

_MARKED = re.compile(
    r'<(?P<tag>span|div) class="arithmatex">'
    r"\\(?:\((?P<inline>.*?)\\\)|\[(?P<display>.*?)\\\])"
    r"</(?P=tag)>",
    re.DOTALL,
)


def on_page_content(content: str, *, page: Any, **_: Any) -> str:
    """The page with its formulas drawn."""

    def drawn(found: re.Match[str]) -> str:
        shown = found["display"] is not None
        source = html.unescape(found["display"] if shown else found["inline"]).strip()
        try:
            drawing = convert(source, display="block" if shown else "inline")
        except Exception as error:  # whatever the converter raises, the author has to know
            _LOG.warning("%s: a formula cannot be read: %s (%s)", page.file.src_uri, source, error)
            return html.escape(source)
        for unknown in re.findall(r"<mi>(\\\w+)</mi>", drawing):  # it would be drawn as it stands
            _LOG.warning("%s: %s is no command known here: %s", page.file.src_uri, unknown, source)
        return drawing

    return _MARKED.sub(drawn, content)
