"""Checks the built documentation: examples are code, and links within it lead somewhere.

    python -m scripts.check_site out/docs

Ends with status 1 and a line for each fault, if there is one.
"""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """A page of the site: its text outside of code, its links, and what they can point at."""

    def __init__(self, path: Path) -> None:
        """Reads the page."""
        super().__init__()
        self.prose, self.links, self.anchors = "", list[str](), set[str]()
        self.spans = self._code = 0
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Notes links and anchors, and where code begins."""
        self.spans += tag == "span"
        self._code += tag in ("pre", "code", "script", "style")
        for name, value in attrs:
            if name in ("id", "name") and value:
                self.anchors.add(value)
            elif name in ("href", "src") and value:
                self.links.append(value)

    def handle_endtag(self, tag: str) -> None:
        """Notes where code ends."""
        self.spans -= tag == "span"
        self._code -= tag in ("pre", "code", "script", "style")

    def handle_data(self, data: str) -> None:
        """Keeps what is not code."""
        if not self._code:
            self.prose += data


def faults_of(site: Path) -> list[str]:
    """What is wrong with a site, one line each."""
    pages = {path.resolve(): Page(path) for path in site.rglob("*.html")}
    found = [] if pages else [f"{site}: expected a built site, found no page"]
    for path, page in pages.items():
        place = path.relative_to(site.resolve())
        found += [
            f"{place}: {sign!r} outside of code" for sign in (">>>", "```") if sign in page.prose
        ]
        if page.spans:
            found.append(f"{place}: {page.spans} spans that do not end")
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc or path.name == "404.html":
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            if not target.exists():
                found.append(f"{place}: no file for the link {link}")
            elif parts.fragment and target in pages:
                if unquote(parts.fragment) not in pages[target].anchors | {""}:
                    found.append(f"{place}: no such anchor as in the link {link}")
    return found


if __name__ == "__main__":
    faults = faults_of(Path(sys.argv[1]))
    print("\n".join(faults) or "no fault")
    sys.exit(1 if faults else 0)
