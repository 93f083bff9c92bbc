"""A real browser for pages, where one is installed; tests that need it are skipped elsewhere."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# Debian's small one first: `apt-get install chromium-headless-shell`.
NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")


def executable() -> str:
    """The path of a browser; skips the test with a message where there is none."""
    found = next((path for path in map(shutil.which, NAMES) if path), None)
    if found is None:
        pytest.skip(f"no browser ({', '.join(NAMES)}) on this machine")
    return found


@contextlib.contextmanager
def browser() -> Iterator[Any]:
    """A headless browser, through Playwright."""
    path = executable()
    api = pytest.importorskip("playwright.sync_api", reason="pip install playwright drives it")
    with api.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=path)
        yield started
        started.close()


class Visit:
    """A page that is open, and all that it asked for or complained of."""

    def __init__(self, opened: Any, path: Path, *, fragment: str = "", **settings: Any) -> None:
        self.context = opened.new_context(
            **{"viewport": {"width": 1280, "height": 900}, **settings}
        )
        self.page = self.context.new_page()
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("dialog", lambda dialog: self.complaints.append(f"dialog {dialog.message}"))
        self.page.goto(f"{path.as_uri()}{fragment}")
        self.settle()

    def settle(self) -> None:
        """Waits until what has changed is drawn."""
        self.page.wait_for_timeout(60)

    def text(self, selector: str) -> str:
        """The text of an element, its white space in single blanks."""
        return " ".join(self.page.locator(selector).inner_text().split())

    def overflow(self) -> list[str]:
        """What is wider than the window, and cannot be scrolled within the page."""
        return self.page.evaluate(
            """() => [...document.querySelectorAll("body *")].filter((node) => {
              const own = ".wide, nav, svg, pre";
              if (node.closest(own) && !node.matches(own)) return false;
              const box = node.getBoundingClientRect();
              return box.width > 0 && box.right > document.documentElement.clientWidth + 1;
            }).map((node) => `${node.tagName}#${node.id}.${node.className}`)"""
        )
