"""The page of a scan: figures on disk and one self-contained HTML file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kis_jax.report import document, words
from kis_jax.report.scan_files import Scan, read_scan
from kis_jax.scan import atlas, kurtosis_figures, layer_figures

# The controls of a scan, and what they are called on the page.
CONTROLS = {**atlas.CONTROLS, "distinct_subjects": "each subject once"}
_SCRIPTS = ("common.js", "chart.js", "matrix.js", "fact.js", "graph.js", "scan.js")
_PAIRS_SHOWN = 20
_FACTS_SHOWN = 1000


def write_report(directory: Path) -> Path:
    """Draw a finished scan.

    Everything is read and drawn before the first file is written, and each file appears under
    its name only when it is whole. The same scan gives the same bytes.

    Args:
      directory: where `kis scan` wrote `scan.json` and `layer_000.npz` ...

    Returns:
      The path of `report.html`, beside `figures/*.png`, `.svg` and `.csv`.

    Raises:
      ValueError: when a file of the scan is missing or damaged; it names the file and the remedy.
    """
    directory = Path(directory)
    scan = read_scan(directory)
    data = atlas.content(scan)
    pictures = draw(scan, data["measures"])
    page = render(scan, pictures, data)
    return document.write_document(directory, page, pictures)


def draw(scan: Scan, measures: Sequence[Mapping[str, Any]]) -> dict[str, bytes]:
    """All figures of a scan as PNG and SVG, and their numbers as CSV, by file name."""
    layers = [layer.index for layer in scan.layers]
    kurtosis = [layer.kurtosis for layer in scan.layers]
    has_duplicates = any(fact.duplicate_of is not None for fact in scan.facts)
    distinct = [layer.kurtosis_without_duplicates for layer in scan.layers]
    pictures = document.encoded(
        "kurtosis_by_layer",
        kurtosis_figures.kurtosis_by_layer(
            layers,
            kurtosis,
            distinct if has_duplicates else None,
            others=_kurtosis_of(scan, "other_tokens"),
            random=_kurtosis_of(scan, "random_directions"),
        ),
    )
    glance = kurtosis_figures.layers_at_a_glance(layers, measures, atlas.CONTROLS)
    pictures |= document.encoded("layers_at_a_glance", glance)
    curves = {layer.index: layer.convergence for layer in scan.layers}
    pictures |= document.encoded(
        "kurtosis_convergence", kurtosis_figures.kurtosis_convergence(curves)
    )
    if scan.second_moment_convergence:
        tokens, errors = zip(*scan.second_moment_convergence, strict=True)
        pictures |= document.encoded(
            "second_moment_convergence",
            kurtosis_figures.second_moment_convergence(tokens, np.stack(errors), layers),
        )
    subjects = np.array([fact.first_of_subject for fact in scan.facts])
    same_subject = subjects[:, None] == subjects
    for layer in layers:
        pictures |= _draw_layer(scan, layer, same_subject)
    return pictures


def _kurtosis_of(scan: Scan, control: str) -> list[float] | None:
    """Kurtosis of a control at each layer; None where no layer has it."""
    if not any(control in layer.controls for layer in scan.layers):
        return None
    return [
        layer.controls[control].kurtosis if control in layer.controls else float("nan")
        for layer in scan.layers
    ]


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
        pictures |= document.encoded(f"layer_{layer:03d}_{name}", figure)
    return pictures


def render(scan: Scan, pictures: dict[str, bytes], data: Mapping[str, Any]) -> str:
    """The page's HTML.

    Args:
      scan: what to show.
      pictures: PNG files by name, as `draw` gives them.
      data: of the atlas.

    Returns:
      One HTML document that loads nothing.
    """
    content = {
        "scan": scan,
        "title": words.title(scan.model),
        "pairs_shown": _PAIRS_SHOWN,
        "facts_shown": _FACTS_SHOWN,
        "has_duplicates": any(fact.duplicate_of is not None for fact in scan.facts),
        "duplicates": words.duplicates(scan.facts),
        "strongest": words.strongest(scan.layers, distinct=True),
        "control_names": CONTROLS,
        "band_names": atlas.CONTROLS,
        "measure_names": {key: name for key, name, *_ in atlas.MEASURES},
        "shown": len(data["facts"]),
        "command": words.command(scan),
    }
    return document.render("scan.html", pictures, content, scripts=_SCRIPTS, data=data)
