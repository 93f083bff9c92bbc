"""The page of a scan: figures on disk and one self-contained HTML file."""

import base64
from pathlib import Path

import jinja2
import numpy as np
from matplotlib.figure import Figure

from kis_jax.checkpoints.files import write_atomically
from kis_jax.report import kurtosis_figures, layer_figures, style, words
from kis_jax.report.scan_files import Scan, read_scan

_PAIRS_SHOWN = 20
_FACTS_SHOWN = 1000


def write_report(directory: Path) -> Path:
    """Draw a finished scan.

    Everything is read and drawn before the first file is written, and each file appears under
    its name only when it is whole. The same scan gives the same bytes.

    Args:
      directory: where `kis scan` wrote `scan.json` and `layer_000.npz` ...

    Returns:
      The path of `report.html`, beside `figures/*.png` and `figures/*.svg`.

    Raises:
      ValueError: when a file of the scan is missing or damaged; it names the file and the remedy.
    """
    directory = Path(directory)
    scan = read_scan(directory)
    pictures = draw(scan)
    page = render(scan, pictures)
    (directory / "figures").mkdir(exist_ok=True)
    for name, content in pictures.items():
        with write_atomically(directory / "figures" / name) as path:
            path.write_bytes(content)
    with write_atomically(directory / "report.html") as path:
        # A lone surrogate is valid in JSON and in no encoding.
        path.write_bytes(page.encode("utf-8", errors="replace"))
    return directory / "report.html"


def draw(scan: Scan) -> dict[str, bytes]:
    """All figures of a scan as PNG and SVG, by file name."""
    layers = [layer.index for layer in scan.layers]
    kurtosis = [layer.kurtosis for layer in scan.layers]
    has_duplicates = any(fact.duplicate_of is not None for fact in scan.facts)
    distinct = [layer.kurtosis_without_duplicates for layer in scan.layers]
    pictures = _encoded(
        "kurtosis_by_layer",
        kurtosis_figures.kurtosis_by_layer(layers, kurtosis, distinct if has_duplicates else None),
    )
    curves = {layer.index: layer.convergence for layer in scan.layers}
    pictures |= _encoded("kurtosis_convergence", kurtosis_figures.kurtosis_convergence(curves))
    subjects = np.array([fact.first_of_subject for fact in scan.facts])
    same_subject = subjects[:, None] == subjects
    for layer in layers:
        pictures |= _draw_layer(scan, layer, same_subject)
    return pictures


def _draw_layer(scan: Scan, layer: int, same_subject: np.ndarray) -> dict[str, bytes]:
    arrays = scan.matrices(layer)
    drawn = {
        "superposition": layer_figures.superposition_map(arrays["superposition"]),
        "density": layer_figures.superposition_density(arrays["superposition"], same_subject),
        "angles": layer_figures.angle_distributions(
            arrays["whitening_cosine"], arrays["activation_cosine"], same_subject
        ),
    }
    pictures: dict[str, bytes] = {}
    for name, figure in drawn.items():
        pictures |= _encoded(f"layer_{layer:03d}_{name}", figure)
    return pictures


def _encoded(name: str, figure: Figure) -> dict[str, bytes]:
    return {f"{name}.png": style.png(figure), f"{name}.svg": style.svg(figure)}


def render(scan: Scan, pictures: dict[str, bytes]) -> str:
    """The page's HTML.

    Args:
      scan: what to show.
      pictures: PNG files by name, as `draw` gives them.

    Returns:
      One HTML document that loads nothing.
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
        content = pictures[f"{name}.png"]
        width, height = (int.from_bytes(content[start : start + 4]) for start in (16, 20))
        return f"data:image/png;base64,{base64.b64encode(content).decode()}", width, height

    distinct = words.strongest(scan.layers, distinct=True)
    return environment.get_template("scan.html").render(
        scan=scan,
        title=words.title(scan.model),
        picture=picture,
        pairs_shown=_PAIRS_SHOWN,
        facts_shown=_FACTS_SHOWN,
        has_duplicates=any(fact.duplicate_of is not None for fact in scan.facts),
        duplicates=words.duplicates(scan.facts),
        between=words.between,
        strongest=distinct,
        command=words.command(scan),
    )
