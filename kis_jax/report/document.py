"""What every report is made of: a template, pictures within it, and files that appear whole."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from matplotlib.figure import Figure

from kis_jax.checkpoints.files import write_atomically
from kis_jax.report import style, words
from kis_jax.report.figure_data import csv_of

_TEMPLATES = Path(__file__).parent / "templates"


def encoded(name: str, figure: Figure) -> dict[str, bytes]:
    """A figure as PNG and SVG, and what it shows as CSV, by file name."""
    return {
        f"{name}.png": style.png(figure),
        f"{name}.svg": style.svg(figure),
        f"{name}.csv": csv_of(figure).encode(),
    }


def render(
    template: str,
    pictures: Mapping[str, bytes],
    content: Mapping[str, Any],
    *,
    scripts: Sequence[str] = (),
    data: Mapping[str, Any] | None = None,
) -> str:
    """One HTML document that loads nothing, and runs none but our own script.

    The page's policy names the script by its hash: text that reached the page as markup could
    still not be run.

    Args:
      template: name of a file in `templates/`.
      pictures: PNG files by name, as `encoded` gives them; a template asks for one by
        `picture(name)`, without the suffix, and is given its data, width and height.
      content: what else the template speaks of.
      scripts: files in `templates/script/` that are joined, the one that begins last.
      data: JSON values that the script finds.

    Returns:
      The document.
    """

    def picture(name: str) -> tuple[str, int, int]:
        image = pictures[f"{name}.png"]
        width, height = (int.from_bytes(image[start : start + 4]) for start in (16, 20))
        return f"data:image/png;base64,{base64.b64encode(image).decode()}", width, height

    return (
        _environment()
        .get_template(template)
        .render(
            picture=picture,
            between=words.between,
            **scripted(scripts, data),
            **content,
        )
    )


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": words.number,
        "count": words.count,
        "setting": words.setting,
    }
    return environment


def card(
    title: str,
    lines: Sequence[str],
    *,
    picture: bytes | None = None,
    alt: str = "",
    head: Sequence[str] = (),
    rows: Sequence[Sequence[str]] = (),
    page: Path | None = None,
) -> str:
    """A finished run as a notebook shows it: what it found, a picture, a table, all text escaped.

    Args:
      title: of the run.
      lines: what it found, a sentence each.
      picture: a PNG file.
      alt: the picture in words.
      head: names of the table's columns.
      rows: of the table.
      page: where the whole page is.
    """
    data = None if picture is None else base64.b64encode(picture).decode()
    content = {"title": title, "lines": lines, "alt": alt, "head": head, "rows": rows, "page": page}
    return _environment().get_template("card.html").render(picture=data, **content)


def scripted(names: Sequence[str], data: Mapping[str, Any] | None) -> dict[str, str]:
    """The script of a page, its data, and what the policy of the page says of it."""
    if not names:
        return {"script": "", "data": "", "policy": ""}
    parts = [(_TEMPLATES / "script" / name).read_text(encoding="utf-8") for name in names]
    script = "\n".join(['"use strict";', "{", *parts, "}"])
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    for mark in "<>&":  # so that no text in it ends the element or begins another
        text = text.replace(mark, f"\\u{ord(mark):04x}")
    policy = f"; script-src 'sha256-{digest}'"
    return {"script": script, "data": text, "policy": policy}


def write_document(
    directory: Path, document: str, pictures: Mapping[str, bytes], page: str = "report.html"
) -> Path:
    """Writes the pictures into `figures/`, then the page, each whole or not at all."""
    (directory / "figures").mkdir(exist_ok=True)
    for name, image in pictures.items():
        with write_atomically(directory / "figures" / name) as path:
            path.write_bytes(image)
    with write_atomically(directory / page) as path:
        # A lone surrogate is valid in JSON and in no encoding.
        path.write_bytes(document.encode("utf-8", errors="replace"))
    return directory / page
