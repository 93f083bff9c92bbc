"""What every report is made of: a template, pictures within it, and files that appear whole."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
from matplotlib.figure import Figure

from kis_jax.checkpoints.files import write_atomically
from kis_jax.report import style, words


def encoded(name: str, figure: Figure) -> dict[str, bytes]:
    """A figure as PNG and SVG, by file name."""
    return {f"{name}.png": style.png(figure), f"{name}.svg": style.svg(figure)}


def render(template: str, pictures: Mapping[str, bytes], content: Mapping[str, Any]) -> str:
    """One HTML document that loads nothing.

    Args:
      template: name of a file in `templates/`.
      pictures: PNG files by name, as `encoded` gives them; a template asks for one by
        `picture(name)`, without the suffix, and is given its data, width and height.
      content: what else the template speaks of.

    Returns:
      The document.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
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

    def picture(name: str) -> tuple[str, int, int]:
        image = pictures[f"{name}.png"]
        width, height = (int.from_bytes(image[start : start + 4]) for start in (16, 20))
        return f"data:image/png;base64,{base64.b64encode(image).decode()}", width, height

    return environment.get_template(template).render(
        picture=picture, between=words.between, **content
    )


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
